"""Opening studies: what is refused, and how the message names it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.study.helpers import FINGERPRINT, SPACE, config, content, opened, searched
from usdn_nas._util.errors import UsdnError, UserError
from usdn_nas.study.journal import JournalLock
from usdn_nas.study.points import complete_trials
from usdn_nas.study.session import read_study
from usdn_nas.study.storage import open_storage


def test_a_worker_that_differs_is_refused(tmp_path: Path) -> None:
    searched(config(configurations=2), tmp_path)
    with pytest.raises(UserError, match=r"another fingerprint\.split: '0123456789ab', here it is 'feedfeedfeed'"):
        opened(config(), tmp_path, fingerprint=FINGERPRINT | {"split": "feedfeedfeedfeed"})
    with pytest.raises(UserError, match=r"another fingerprint\.supernet"):
        opened(config(), tmp_path, fingerprint=FINGERPRINT | {"supernet": "ab"})
    with pytest.raises(UserError, match=r"another search\.mode: 'pareto', here it is 'scalar'"):
        opened(config(mode="scalar"), tmp_path)
    with pytest.raises(UserError, match=r"another search\.thresholds: 8, here it is 9"):
        opened(config(thresholds=9), tmp_path)
    with pytest.raises(UserError, match=r"another search\.sampler: 'surrogate', here it is 'gp'"):
        opened(config(sampler="gp"), tmp_path)
    with pytest.raises(UserError, match=r"another study\.seed: 0, here it is 3"):
        opened(config(), tmp_path, seed=3)
    opened(config(configurations=500), tmp_path)  # more configurations extend it


def test_a_foreign_study_of_the_same_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    foreign = optuna.create_study(storage=url, study_name="test")
    foreign.tell(foreign.ask(), 1.0)
    with pytest.raises(UserError, match="was not made by usdn-nas"):
        opened(config(storage=url), tmp_path)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("study.db", "expected a storage URL"),
        ("nosuch://host/db", "cannot open 'nosuch://host/db'"),
        ("sqlite:////no/such/folder/study.db", "cannot open 'sqlite"),
        ("redis://localhost", "cannot open 'redis://localhost'"),
        ("nosuch://me:secret@host/db", r"cannot open 'nosuch://me:\*\*\*@host/db'"),
        ("/proc/nowhere/study.journal", "cannot be written"),
    ],
)
def test_bad_storages_are_one_line(url: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=match) as caught:
        opened(config(storage=url), tmp_path)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_journal_by_path(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "shared.journal"
    searched(config(configurations=2, storage=str(path)), tmp_path)
    assert path.is_file() and not (tmp_path / "study.journal").exists()


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no search has been run here yet"):
        read_study(config(), storage_path=tmp_path / "study.journal", name="test")
    assert not list(tmp_path.iterdir())
    study, _ = searched(config(configurations=2), tmp_path)
    with pytest.raises(UserError, match="no study 'tset' in this storage; did you mean 'test'"):
        read_study(config(), storage_path=tmp_path / "study.journal", name="tset")
    again = read_study(config(), storage_path=tmp_path / "study.journal", name="test", fingerprint=FINGERPRINT)
    assert content(again) == content(study)
    with pytest.raises(UserError, match=r"another fingerprint\.split: '0123456789ab', here it is 'feed'"):
        fingerprint = FINGERPRINT | {"split": "feed"}
        read_study(config(), storage_path=tmp_path / "study.journal", name="test", fingerprint=fingerprint)


def test_a_torn_line_is_cut_on_opening(tmp_path: Path) -> None:
    whole, _ = searched(config(sampler="nsga2"), tmp_path / "whole")
    searched(config(sampler="nsga2", configurations=7), tmp_path)
    journal = tmp_path / "study.journal"
    sound = journal.read_bytes()
    journal.write_bytes(sound + b'{"op_code":5,"worker_id":"')
    study, _ = searched(config(sampler="nsga2"), tmp_path)
    assert content(study) == content(whole)
    assert journal.read_bytes().startswith(sound + b"{")
    journal.write_bytes(b'{"op_code":0')  # nothing but a torn line
    open_storage(None, journal)
    assert journal.read_bytes() == b""


def test_a_live_worker_mends_what_a_killed_one_tore(tmp_path: Path) -> None:
    study = opened(config(), tmp_path)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code":5,"wor')
    study.set_user_attr("note", 1)
    assert opened(config(), tmp_path).user_attrs["note"] == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"op_code":2', b'nonsense"op_code":2'),
        (b'"user_attr"', b'"usar_attr"'),
        (b'"study_id"', b'"study_ie"'),
        (b"\n", b"\n\n"),
        (b"\n", b"\n[]\n"),
        (b"\n", b"\n\xff\n"),
    ],
)
def test_a_damaged_journal_is_the_users_to_know(before: bytes, after: bytes, tmp_path: Path) -> None:
    searched(config(configurations=2), tmp_path)
    journal = tmp_path / "study.journal"
    assert before in journal.read_bytes()
    journal.write_bytes(journal.read_bytes().replace(before, after, 1))
    with pytest.raises(UserError, match="the journal is damaged"):
        opened(config(), tmp_path)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"accuracy_without_exits"', b'"accuracy_without_exitt"'),
        (b'"samples":', b'"samples":-'),
        (b'"chosen":', b'"chosen":9'),
        (b'"param_name":"bits.', b'"param_name":"bitz.'),
    ],
)
def test_a_damaged_record_of_a_trial_is_the_users_to_know(before: bytes, after: bytes, tmp_path: Path) -> None:
    searched(config(configurations=2), tmp_path)
    journal = tmp_path / "study.journal"
    assert before in journal.read_bytes()
    journal.write_bytes(journal.read_bytes().replace(before, after, 1))
    with pytest.raises(UserError, match="the record of trial 0 is damaged"):
        complete_trials(opened(config(), tmp_path), SPACE)


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"COMPLETE", b"COMPLDTE"), (b'"name"', b'"nane"'), (b"20", b"2x"), (b"fingerprint", b"finger\xffrint")],
)
def test_a_damaged_database_is_the_users_to_know(before: bytes, after: bytes, tmp_path: Path) -> None:
    settings = config(configurations=2, storage=f"sqlite:///{tmp_path}/study.db")
    searched(settings, tmp_path)
    database = tmp_path / "study.db"
    assert before in database.read_bytes()
    database.write_bytes(database.read_bytes().replace(before, after))
    with pytest.raises(UsdnError, match=r"study\.db.*damaged|study\.db.*failed"):
        opened(settings, tmp_path).get_trials()


def test_the_lock_excludes(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    path.touch()
    first, order = JournalLock(path), []
    first.acquire()

    def second() -> None:
        lock = JournalLock(path)
        lock.acquire()
        order.append("second")
        lock.release()

    thread = threading.Thread(target=second)
    thread.start()
    thread.join(0.1)
    order.append("first")
    first.release()
    thread.join(5)
    assert order == ["first", "second"]


def test_what_the_study_says_of_itself(tmp_path: Path) -> None:
    study, _ = searched(config(configurations=2), tmp_path)
    attributes: dict[str, Any] = study.user_attrs
    assert attributes["fingerprint"] == FINGERPRINT
    assert attributes["sampler"] == {"name": "surrogate", "seed": 0, "population": 8, "initial": 4}
    assert study.metric_names == ["accuracy", "bops"]
