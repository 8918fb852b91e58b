"""Reports progress on stderr: as a bar with an ETA in a terminal, as a line now and then elsewhere, or not at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as RichTask
from rich.table import Column
from rich.text import Text

__all__ = ["Reporter", "Task"]

SECONDS_BETWEEN_LINES = 10.0


class Task(Protocol):
    """Long work that is under way."""

    def advance(self, note: str = "", count: int = 1) -> None:
        """Reports that ``count`` more units are done. ``note`` describes the current state, such as a loss."""


class _Note(ProgressColumn):
    """The note. It is cut short in a narrow terminal, so that bar, numbers and ETA keep their room."""

    def get_table_column(self) -> Column:
        return Column(no_wrap=False)

    def render(self, task: RichTask) -> Text:
        return Text(task.fields["note"], overflow="ellipsis", no_wrap=True)


class _Bar:
    def __init__(self, bar: Progress, title: str, total: int, done: int) -> None:
        self.bar = bar
        self.task = bar.add_task(title, total=total, completed=done, note="")

    def advance(self, note: str = "", count: int = 1) -> None:
        self.bar.update(self.task, advance=count, note=note)


class _Lines:
    def __init__(self, reporter: Reporter, title: str, total: int, done: int) -> None:
        self.reporter, self.title, self.total = reporter, title, total
        self.done = self.first = done
        self.start = self.last = time.monotonic()

    def advance(self, note: str = "", count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES and self.done < self.total:
            return
        self.last = now
        left = (now - self.start) / max(self.done - self.first, 1) * (self.total - self.done)
        eta = f"ETA {int(left) // 60}:{int(left) % 60:02d}" if self.done < self.total else "done"
        self.reporter.say(f"{self.title}  {self.done}/{self.total}  {eta}  {note}".rstrip())


class _Silent:
    def advance(self, note: str = "", count: int = 1) -> None:
        pass


class Reporter:
    """Prints messages and progress to a console.

    Args:
        console: Where to print. None prints nothing, which is the default because a library should be silent.
        verbose: Print details too.
    """

    def __init__(self, console: Console | None = None, *, verbose: bool = False) -> None:
        self.console = console
        self.verbose = verbose

    def say(self, text: str) -> None:
        """Prints a line."""
        if self.console is not None:
            with contextlib.suppress(OSError):  # a log on a full disk must not end a run
                self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        """Prints a line if details are wanted (``verbose``)."""
        if self.verbose:
            self.say(text)

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Task]:
        """Shows the progress of work with ``total`` units inside the block. ``done`` units were finished before."""
        if self.console is None:
            yield _Silent()
        elif not self.console.is_terminal:
            yield _Lines(self, title, total, done)
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=14),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                _Note(),
            )
            with Progress(*columns, console=self.console, transient=False) as bar:
                yield _Bar(bar, title, total, done)
