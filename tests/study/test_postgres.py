"""A real PostgreSQL server: four processes start on an empty database, and it stops and starts under their search."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.study.helpers import SPACE, config, content, opened, outputs_of, searched
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.architecture import Bits
from usdn_nas.study.parameters import indices_of

pytestmark = pytest.mark.sweep

PASSWORD = "s3cr@t:/?"
TRIALS = 60


def binary(name: str) -> str | None:
    """PostgreSQL's programs are on the path, or where Debian puts them."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


class Server:
    """A server on loopback in a folder of its own. It refuses to run as root, who lends it another user's rights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        password = folder / "password"
        password.write_text(PASSWORD)
        if self.as_user:
            shutil.chown(folder, "postgres")
            shutil.chown(password, "postgres")
        self._run("initdb", "-D", str(folder / "data"), "-U", "me", "-A", "scram-sha-256", f"--pwfile={password}")

    def _run(self, name: str, *arguments: str) -> None:
        program = binary(name)
        assert program is not None
        command = [*self.as_user, program, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, timeout=120)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log"), "-o", options, "start"
        )

    def stop(self, mode: str) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://me:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def create(self) -> str:
        """The URL of a new, empty database."""
        import sqlalchemy

        name = f"nas_{secrets.token_hex(4)}"
        engine = sqlalchemy.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    if binary("initdb") is None or binary("pg_ctl") is None:
        pytest.skip("PostgreSQL is not installed")
    if os.geteuid() == 0 and (shutil.which("runuser") is None or "postgres:" not in Path("/etc/passwd").read_text()):
        pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
    with tempfile.TemporaryDirectory(prefix="usdn-nas-pg-", dir="/tmp") as folder:
        made = Server(Path(folder))
        made.start()
        try:
            yield made
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                made.stop("immediate")


def _open(url: str, folder: Path) -> None:
    opened(config(storage=url), folder)


def _slow(bits: dict[str, Bits]) -> ExitOutputs:
    time.sleep(0.1)
    return outputs_of(bits)


def _search(url: str, folder: Path) -> None:
    searched(config(storage=url, sampler="random", batch=4, configurations=TRIALS), folder, _slow)


def started(work: object, *arguments: object) -> list[multiprocessing.process.BaseProcess]:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work, args=arguments) for _ in range(4)]  # type: ignore[arg-type]
    for worker in workers:
        worker.start()
    return workers


def ended(workers: list[multiprocessing.process.BaseProcess]) -> list[int | None]:
    for worker in workers:
        worker.join(300)
    return [worker.exitcode for worker in workers]


def test_four_processes_start_on_an_empty_database(server: Server, tmp_path: Path) -> None:
    for _ in range(3):
        assert ended(started(_open, server.create(), tmp_path)) == [0] * 4


def test_the_server_stops_five_times_under_four_workers(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = server.create()
    workers = started(_search, url, tmp_path)
    settings = config(storage=url, sampler="random", batch=4, configurations=TRIALS)
    study = opened(settings, tmp_path)
    for stops in range(5):
        deadline = time.monotonic() + 120
        while sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)) < 8 * stops + 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.stop("immediate" if stops % 2 else "fast")
        time.sleep(1 + stops % 3)
        server.start()
    assert ended(workers) == [0] * 4
    trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert len({indices_of(SPACE, trial.params) for trial in trials}) == TRIALS
    undisturbed, _ = searched(settings.model_copy(update={"storage": None}), tmp_path / "journal")
    assert content(study) == content(undisturbed)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err and "s3cr" not in printed.out + printed.err
