"""Commands of ``usdn-nas`` in processes of their own, forked from this one, which has imported everything once."""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Child", "Ended", "Job", "command", "library", "run", "run_all", "tidy", "warm_up"]

MEMORY_BYTES = 12 << 30
"""A child may not map more memory than this. A damaged size then ends in an error and not in the machine's swap."""

SHOWN = 1 << 20
"""So many bytes of a child's output are read."""


def warm_up() -> None:
    """Imports all that commands import, so that a forked child starts at once."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    modules = (
        "torch", "torchvision", "sklearn.datasets", "scipy.stats", "matplotlib.pyplot", "sqlalchemy.dialects.sqlite",
        "usdn_nas.cli", "usdn_nas.export.runtime", "usdn_nas.pipeline.stages", "usdn_nas.report.figures.write",
        "usdn_nas.data.load", "usdn_nas.networks.empty", "usdn_nas.space.inspection", "usdn_nas.report.fitting",
    )  # fmt: skip
    for name in modules:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: Exit status; negative: the number of the signal that killed it.
        late: It was killed because its time was over.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    late: bool = False

    @property
    def crashed(self) -> bool:
        """Whether it ended with a traceback, or by a signal that nobody sent."""
        return "Traceback (most recent call last)" in self.stderr + self.stdout or (self.status < 0 and not self.late)

    @property
    def unforeseen(self) -> bool:
        """Whether it ended in the line that the program has for exceptions that nobody thought of."""
        return self.stderr.rpartition("internal error: ")[1] != ""


def tidy(ended: Ended) -> bool:
    """Whether a child was refused as promised: status 1 or 2, and one short printable line that ends its output."""
    lines = ended.stderr.splitlines()
    last = lines[-1] if lines else ""
    return (
        ended.status in (1, 2)
        and not ended.crashed
        and not ended.unforeseen
        and last.startswith(("error: ", "failed: "))
        and len(last) <= 1500
        and last.isprintable()
    )


def command(*arguments: object) -> Callable[[], None]:
    """The work of a child that runs ``usdn-nas`` with these arguments, as the console script does."""

    def work() -> None:
        from usdn_nas.cli import main

        sys.argv = ["usdn-nas", *map(str, arguments)]
        main()

    return work


def library(function: Callable[[], object]) -> Callable[[], None]:
    """The work of a child that calls the library, prints what it gives, and refuses as commands do."""

    def work() -> None:
        import sys

        from usdn_nas._util.errors import RunError, UserError

        try:
            print(function())
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except RunError as error:
            print(f"failed: {error}", file=sys.stderr)
            sys.exit(1)

    return work


class Child:
    """A forked process in a session of its own.

    Args:
        work: What it does; its exit status is that of a Python script that does only this.
        folder: Its working directory.
        limit: Seconds after which `wait` kills it.
        prepare: Called in the child before ``work``.
        memory: Bytes of memory that it may map; None: as many as it likes.
    """

    def __init__(
        self,
        work: Callable[[], object],
        folder: Path,
        limit: float,
        prepare: Callable[[], object] | None = None,
        memory: int | None = MEMORY_BYTES,
    ) -> None:
        self.limit, self.start = limit, time.monotonic()
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads: none of ours hold a lock
            self.pid = os.fork()
        if self.pid == 0:
            self._become(work, folder, prepare, memory)
        with contextlib.suppress(OSError):  # also done by the child: whoever is first
            os.setpgid(self.pid, self.pid)
        self._handle = os.pidfd_open(self.pid)
        self.ended: Ended | None = None

    def _become(
        self, work: Callable[[], object], folder: Path, prepare: Callable[[], object] | None, memory: int | None
    ) -> None:
        status = 1
        try:
            os.setpgid(0, 0)
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(self._out.fileno(), 1)
            os.dup2(self._err.fileno(), 2)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            os.environ["COLUMNS"] = "200"
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if memory is not None:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            if prepare is not None:
                prepare()
            work()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def fileno(self) -> int:
        """A descriptor that can be read when the process has ended."""
        return self._handle

    def kill(self) -> None:
        """SIGKILL to the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def left(self) -> float:
        """Seconds until its time is over."""
        return max(0.0, self.start + self.limit - time.monotonic())

    def poll(self, seconds: float = 0.0) -> bool:
        """Whether it has ended, after waiting for at most ``seconds``."""
        if self.ended is not None:
            return True
        return bool(select.select([self._handle], [], [], max(0.0, seconds))[0])

    def wait(self) -> Ended:
        """Waits for its end, and makes one when its time is over."""
        if self.ended is None:
            late = not self.poll(self.left())
            self.kill()  # also those that it left behind
            _, status = os.waitpid(self.pid, 0)
            seconds = time.monotonic() - self.start
            self.ended = Ended(
                os.waitstatus_to_exitcode(status), self._read(self._out), self._read(self._err), seconds, late
            )
            os.close(self._handle)
        return self.ended

    @staticmethod
    def _read(file: object) -> str:
        file.seek(0)
        content: bytes = file.read(SHOWN)
        file.close()
        return content.decode(errors="backslashreplace")


def run(work: Callable[[], object], folder: Path, limit: float, prepare: Callable[[], object] | None = None) -> Ended:
    """Runs ``work`` in a child to its end."""
    return Child(work, folder, limit, prepare).wait()


@dataclass
class Job:
    """Work for `run_all`; ``about`` is handed back with its end."""

    work: Callable[[], object]
    folder: Path
    prepare: Callable[[], object] | None = None
    about: object = field(default=None)


def run_all(jobs: Iterable[Job], limit: float, at_once: int) -> Iterator[tuple[Job, Ended]]:
    """Runs jobs, ``at_once`` at a time, and yields each as it ends. A job is drawn when there is room for it.

    Args:
        limit: Seconds for each on a machine that does nothing else. On a busy machine it grows with the load.
    """
    running: list[tuple[Job, Child]] = []
    source = iter(jobs)
    while True:
        while len(running) < at_once and (job := next(source, None)) is not None:
            waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
            running.append((job, Child(job.work, job.folder, limit * max(1.0, waiting), job.prepare)))
        if not running:
            return
        select.select([child for _, child in running], [], [], min(child.left() for _, child in running))
        for pair in [pair for pair in running if pair[1].poll() or not pair[1].left()]:
            running.remove(pair)
            yield pair[0], pair[1].wait()
