"""A database that fails in the middle of a search: nothing is lost or doubled, and the wait is limited and heard."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy import Engine, event, exc
from sqlalchemy.orm import Session

from tests.study.helpers import FINGERPRINT, SPACE, config, content, evaluate, opened, searched
from usdn_nas._util.errors import RunError, UserError
from usdn_nas.study import lease
from usdn_nas.study import patience as patience_module
from usdn_nas.study.asking import open_trials
from usdn_nas.study.lease import LEASE, new_lease
from usdn_nas.study.patience import BrokenTransactionError, Patience
from usdn_nas.study.search import run_search
from usdn_nas.study.session import open_study
from usdn_nas.study.storage import one_write, open_storage


def lost() -> exc.OperationalError:
    return exc.OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked"))


@contextlib.contextmanager
def failing(which: Callable[[int], str | None]) -> Iterator[list[int]]:
    """Commits fail: ``which`` says of the number of each whether ``before`` it is done, ``after`` it, or not at all.

    After it means that the database has the change, and only the acknowledgement is lost.
    """
    real, count = Session.commit, [0]

    def commit(self: Session) -> None:
        count[0] += 1
        how = which(count[0])
        if how == "before":
            raise lost()
        real(self)
        if how == "after":
            raise lost()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "commit", commit)
        yield count


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience_module, "_FIRST_PAUSE_S", 0.0)


def database(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    return f"sqlite:///{folder}/study.db"


def in_memory(trials: int, **changes: Any) -> Any:
    """Settings, study and a list of what was said, without waits for a disk."""
    settings = config(sampler="random", batch=3, configurations=trials, storage="sqlite://", **changes)
    said: list[str] = []
    study = open_study(
        SPACE, settings, seed=0, storage_path=Path("unused"), fingerprint=FINGERPRINT, name="test", say=said.append
    )
    return settings, study, said


@pytest.fixture(scope="module")
def whole() -> list[tuple[Any, ...]]:
    """The trials of a search that nothing disturbs."""
    settings, study, _ = in_memory(7)
    run_search(study, SPACE, settings, evaluate)
    return content(study)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_survives_lost_commits(seed: int, whole: list[tuple[Any, ...]]) -> None:
    draws = random.Random(seed)
    settings, study, _ = in_memory(7)
    with failing(lambda number: draws.choice(["before", "after"]) if draws.random() < 0.15 else None) as count:
        run_search(study, SPACE, settings, evaluate)
    assert count[0] > 20
    assert content(study) == whole


def test_each_commit_of_a_search_may_be_the_one_that_is_lost(whole: list[tuple[Any, ...]]) -> None:
    with failing(lambda number: None) as count:
        settings, study, _ = in_memory(7)
        run_search(study, SPACE, settings, evaluate)
    for lost_one in range(1, count[0], 23):
        settings, study, _ = in_memory(7)
        with failing(lambda number, lost_one=lost_one: "after" if number == lost_one else None):  # type: ignore[misc]
            run_search(study, SPACE, settings, evaluate)
        assert content(study) == whole, f"commit {lost_one}"


def test_one_line_after_the_patience_and_a_rerun_goes_on(
    tmp_path: Path, whole: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(sampler="random", batch=3, configurations=7, storage=database(tmp_path), storage_patience_s=0.05)
    with failing(lambda number: "before" if number > 25 else None), pytest.raises(RunError) as caught:
        searched(settings, tmp_path)
    line = str(caught.value)
    assert "could not be used for 0.05 s: database is locked" in line and "\n" not in line
    monkeypatch.setattr(lease, "_dead", lambda lease: True)  # another process runs again; this one is still alive
    study, _ = searched(settings, tmp_path)
    assert content(study) == whole


def test_what_is_said_of_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(patience_module, "_QUIET_S", 0.0)
    one = Patience(60, "postgresql://me:***@host/db", lambda error: "gone", said.append)
    attempts = iter([lost(), lost(), None])

    def work() -> str:
        error = next(attempts)
        if error is not None:
            raise error
        return "done"

    assert one.run(work) == "done"
    assert said == [
        "search: postgresql://me:***@host/db cannot be reached (gone); trying again for up to 60 s",
        "search: postgresql://me:***@host/db is back, the search goes on",
    ]


def test_inner_work_is_not_repeated_by_itself() -> None:
    ran: list[str] = []
    one = Patience(60, "db", str, ran.append)

    def inner() -> None:
        ran.append("inner")
        if ran.count("inner") == 1:
            raise lost()

    def outer() -> None:
        ran.append("outer")
        one.run(inner)

    one.run(outer)
    assert ran == ["outer", "inner", "outer", "inner"]


@pytest.mark.parametrize(
    "error",
    [
        exc.ProgrammingError("", {}, sqlite3.ProgrammingError("permission denied")),
        exc.OperationalError("", {}, sqlite3.OperationalError("attempt to write a readonly database")),
    ],
)
def test_what_no_wait_will_end_is_said_at_once(error: Exception) -> None:
    one = Patience(60, "db", lambda error: "why", lambda text: None)

    def work() -> None:
        raise error

    started = time.monotonic()
    with pytest.raises(RunError, match="db: the database failed: why"):
        one.run(work)
    assert time.monotonic() - started < 5
    with pytest.raises(KeyError):  # not the database's: it goes out as it is
        one.run(lambda: {}["missing"])


def test_a_transaction_is_kept_whole(tmp_path: Path) -> None:
    """A change that Optuna rolls back and ignores must not leave half of the transaction behind."""
    storage = open_storage(database(tmp_path), tmp_path)
    study = optuna.create_study(storage=storage)
    trial = storage.create_new_trial(study._study_id)
    distribution = optuna.distributions.IntDistribution(0, 3)
    storage.set_trial_param(trial, "x", 1, distribution)

    def change() -> None:
        storage.set_trial_user_attr(trial, "note", "half")
        storage.set_trial_param(trial, "x", 2, distribution)  # is there already

    with pytest.raises((BrokenTransactionError, exc.IntegrityError)):
        one_write(storage, change, impatient=True)
    assert storage.get_trial(trial).user_attrs == {} and storage.get_trial(trial).params == {"x": 1}


def test_a_failed_creation_leaves_no_trial_in_the_cache(tmp_path: Path) -> None:
    storage = open_storage(database(tmp_path), tmp_path)
    study = optuna.create_study(storage=storage)
    with failing(lambda number: "before"), pytest.raises(exc.OperationalError):
        storage.create_new_trial(study._study_id)
    assert study.trials == []


def test_a_worker_finds_the_trial_whose_creation_was_not_acknowledged(tmp_path: Path) -> None:
    attributes = {LEASE: new_lease("me")}
    mine = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs=attributes)
    assert open_trials([mine], "me") == ([mine], 0)
    assert open_trials([mine], "other") == ([], 1)


def test_opening_is_repeated_where_another_process_creates_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What PostgreSQL says to three of four processes that start on an empty database."""
    from optuna.storages._rdb import models

    real, tries = models.BaseModel.metadata.create_all, []

    def create(engine: Any) -> None:
        tries.append(engine)
        if len(tries) < 3:
            text = 'duplicate key value violates unique constraint "pg_type_typname_nsp_index"'
            raise exc.IntegrityError("CREATE TABLE", {}, sqlite3.IntegrityError(text))
        real(engine)

    monkeypatch.setattr(models.BaseModel.metadata, "create_all", create)
    monkeypatch.setattr("usdn_nas.study.address.time.sleep", lambda seconds: None)
    open_storage(database(tmp_path), tmp_path)
    assert len(tries) == 3


def test_a_server_that_is_away_at_the_start_is_said_at_once(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    started = time.monotonic()
    with pytest.raises(UserError, match=r"cannot open 'postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/db'") as caught:
        open_storage("postgresql+psycopg://me:se%40cret@127.0.0.1:1/db", tmp_path)
    assert time.monotonic() - started < 20 and "cret" not in str(caught.value)


def test_a_full_disk_is_said_at_once_and_a_rerun_goes_on(tmp_path: Path) -> None:
    """SQLite refuses to grow a database beyond ``max_page_count`` in the way in which it reports a full disk."""
    settings = config(storage=f"sqlite:///{tmp_path / 'study.db'}", storage_patience_s=60, configurations=6)
    opened(settings, tmp_path)
    full = True

    def limit(connection: sqlite3.Connection, _: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages if full else 100_000}")

    event.listen(Engine, "connect", limit)
    try:
        began = time.monotonic()
        with pytest.raises(RunError, match="study.db.*disk is full; make room on its disk"):
            searched(settings, tmp_path)
        assert time.monotonic() - began < 30  # not after the patience
        full = False
        study, _ = searched(settings, tmp_path)
    finally:
        event.remove(Engine, "connect", limit)
    assert sum(trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)) == 6
