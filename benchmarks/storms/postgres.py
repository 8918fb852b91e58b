"""A PostgreSQL server of one's own on loopback, from Debian's package; started, stopped and removed again."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from pathlib import Path
from urllib.parse import quote

__all__ = ["PASSWORD", "Postgres", "why_not"]

PASSWORD = "öffne:S3sam/@#dich?"
"""With letters that have a meaning in a URL."""

_USER = "storm"


def _program(name: str) -> str | None:
    """Path of one of PostgreSQL's programs, which Debian keeps outside PATH."""
    found = shutil.which(name)
    if found is not None:
        return found
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(places[-1]) if places else None


def why_not() -> str | None:
    """Why PostgreSQL cannot be tried here; None: it can."""
    if _program("initdb") is None or _program("pg_ctl") is None:
        return "PostgreSQL's server is missing (Debian: apt-get install postgresql)"
    if os.getuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL refuses to run as root, and runuser is missing"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "the driver psycopg is missing (pip install 'usdn-nas[postgres]')"
    return None


class Postgres:
    """A server with its data in ``folder``, which every user may enter. It listens on loopback alone.

    Used in a ``with`` statement: it runs within, and is stopped at its end.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._data = folder, folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def __enter__(self) -> Postgres:
        secret = self._folder / "secret"
        secret.write_text(PASSWORD + "\n", encoding="utf-8")
        if os.getuid() == 0:
            self._folder.chmod(0o755)
            for path in (self._folder, secret):
                shutil.chown(path, "postgres")
        self._do(
            "initdb", "--pgdata", str(self._data), "--username", _USER, "--auth=scram-sha-256", "--pwfile", str(secret),
            "--encoding=UTF8", "--no-sync", "--no-locale",
        )  # fmt: skip
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.stop("immediate")

    def _do(self, program: str, *arguments: str) -> None:
        path = _program(program)
        assert path is not None
        asked = ["runuser", "-u", "postgres", "--", path] if os.getuid() == 0 else [path]
        log = self._folder / "log"
        with log.open("a") as file:
            subprocess.run(
                [*asked, *arguments],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=120,
                cwd="/",
            )

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._data} -F"
        self._do("pg_ctl", "--pgdata", str(self._data), "--wait", "--timeout=60", "--options", options, "start")

    def stop(self, mode: str) -> None:
        """Stops the server; ``fast`` ends connections, ``immediate`` is as a crash."""
        self._do("pg_ctl", "--pgdata", str(self._data), "--wait", "--timeout=60", "--mode", mode, "stop")

    def database(self, name: str) -> str:
        """Makes an empty database; returns its URL, with the password."""
        import psycopg

        where = {"host": "127.0.0.1", "port": self.port, "user": _USER, "password": PASSWORD, "dbname": "postgres"}
        with psycopg.connect(**where, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://{_USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{name}"
