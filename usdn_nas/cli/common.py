"""What the commands share: options, consoles, exit statuses, how a study is opened."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from usdn_nas.errors import RunError, UserError
from usdn_nas.progress import Reporter

if TYPE_CHECKING:
    import pandas as pd

    from usdn_nas.pipeline.context import Context

__all__ = [
    "Format",
    "FormatOption",
    "OutOption",
    "QuietOption",
    "SetOption",
    "StudyArgument",
    "command",
    "open_study_or_run",
    "print_bits",
    "print_frame",
    "print_gap",
    "stdout",
]

F = TypeVar("F", bound=Callable[..., None])


class Format(StrEnum):
    """How a table is printed."""

    table = "table"
    csv = "csv"
    json = "json"


StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study's TOML file, its name, or the folder of a run.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides a setting, e.g. search.configurations=256. Repeatable."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run folder.", show_default="runs/<study>")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
FormatOption = Annotated[Format, typer.Option("--format", help="For people (table), or for programs (csv, json).")]


def stdout() -> Console:
    """The console for data."""
    return Console()


def _fail(text: str, status: int) -> typer.Exit:
    sys.stderr.write(text + "\n")
    return typer.Exit(status)


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def command(function: F) -> F:
    """Turns what a command raises into one line on stderr and an exit status."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, _terminated)
        try:
            function(*args, **kwargs)
        except UserError as error:
            raise _fail(f"error: {error}", 2) from None
        except RunError as error:
            raise _fail(f"failed: {error}", 1) from None
        except KeyboardInterrupt:
            raise _fail("interrupted; the same command goes on from here", 130) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    return wrapped  # type: ignore[return-value]


def open_study_or_run(
    study: str, overrides: list[str] | None = None, out: Path | None = None, quiet: bool = True
) -> Context:
    """The context of a study's file or name, or of a run's folder.

    Raises:
        UserError: There is no such thing.
    """
    from usdn_nas.config import find_toml
    from usdn_nas.pipeline.context import open_run

    folder = Path(study)
    path = folder if (folder / "study.json").is_file() else find_toml(study, "studies")
    reporter = Reporter() if quiet else Reporter(Console(stderr=True))
    return open_run(path, tuple(overrides or ()), out, reporter)


def print_gap(evaluation: Mapping[str, Any]) -> None:
    """Prints the gap between search and test figures, for people."""
    from usdn_nas.report import gap_table

    frame = gap_table(evaluation).drop(columns=["label", "search_n", "n"])
    title = (
        f"Policies on the search split (n = {evaluation['search_n']:,}) and the test split (n = {evaluation['n']:,})"
    )
    print_frame(frame, Format.table, title)


def print_bits(evaluation: Mapping[str, Any]) -> None:
    """Prints the mean bits of the architecture, for people."""
    from usdn_nas.report import mean_bits_table

    print_frame(
        mean_bits_table(evaluation), Format.table, "Bits of the layers that run, heads of placed exits included"
    )


def print_frame(frame: pd.DataFrame, format: Format, title: str | None = None) -> None:
    """Prints a table to stdout; CSV and JSON exactly as they are."""
    from usdn_nas.report import render

    rendered = render(frame, format.value, title=title)
    if isinstance(rendered, str):
        sys.stdout.write(rendered)
    else:
        stdout().print(rendered)
