"""Shared parts of the commands: options, consoles, exit statuses, and functions that open a study."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from usdn_nas._util.errors import RunError, UsdnError, UserError
from usdn_nas._util.progress import Reporter
from usdn_nas._util.trust import TRUST_VARIABLE, ConsentError
from usdn_nas._util.writing import os_failure
from usdn_nas.cli.lookup import ORDER, complete_studies, find_study_or_run

if TYPE_CHECKING:
    import pandas as pd

    from usdn_nas.pipeline.context import Context
    from usdn_nas.report import Run

__all__ = [
    "DeviceOption",
    "DryRunOption",
    "Format",
    "FormatOption",
    "OutOption",
    "QuietOption",
    "SeedOption",
    "SetOption",
    "StudyArgument",
    "TraceOption",
    "TrustOption",
    "VerboseOption",
    "command",
    "find_run",
    "open_study_or_run",
    "path_parser",
    "print_bits",
    "print_frame",
    "print_gap",
    "settings_of",
    "stdout",
    "stored_run",
    "under_torchrun",
]

F = TypeVar("F", bound=Callable[..., None])


class Format(StrEnum):
    """Formats in which a table can be printed."""

    table = "table"
    csv = "csv"
    json = "json"


def path_parser(option: str) -> Callable[[str], Path]:
    """Returns a parser of the path given for ``option``. It refuses empty text, which `Path` would take for ``.``."""

    def parse(text: str) -> Path:
        if not text.strip():
            raise _fail(f"error: {option}: expected a name, got {text!r}", 2)
        return Path(text)

    return parse


StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help=ORDER,
        autocompletion=complete_studies,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Overrides a setting, e.g. search.configurations=256. Repeatable."),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Seed of all random numbers. Short for --set seed=N.")
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N. Short for --set device=NAME."),
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Shows all settings in force and the planned work. Needs no data, does nothing."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="The run folder.", show_default="runs/<study>", parser=path_parser("--out")
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also a line for every epoch and trial, and where an error came from.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        envvar=TRUST_VARIABLE,
        help="Consents to run code that a file names (package.module:function). Only for files that you trust.",
    ),
]
TraceOption = Annotated[bool, typer.Option("--verbose", "-v", help="Also shows where an error came from.")]
"""The option ``--verbose`` of commands that print only their result. `command` reads it."""
FormatOption = Annotated[Format, typer.Option("--format", help="For people (table), or for programs (csv, json).")]


def stdout() -> Console:
    """Returns the console that prints to stdout."""
    return Console()


def _fail(text: str, status: int, *, trace: bool = False) -> typer.Exit:
    if not under_torchrun() or _first_to_fail():
        if trace:
            traceback.print_exc()
        with contextlib.suppress(OSError):  # if stderr cannot be written to, the error cannot be reported anywhere
            sys.stderr.write(text + "\n")
    return typer.Exit(status)


def _first_to_fail() -> bool:
    from usdn_nas.pipeline.ranks import first_to_fail

    return first_to_fail()


def under_torchrun() -> bool:
    """Returns True if this is one of several processes that run a command together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _drop_output() -> None:
    """Discards output that is not yet written. Otherwise Python would try to write it again at exit, and fail again."""
    with contextlib.suppress(OSError):  # in a test, stdout is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_paths(options: Mapping[str, Any]) -> None:
    """Refuses options with an invalid path before anything else is done."""
    from usdn_nas._util.parsing import check_path

    for name, value in options.items():
        if isinstance(value, Path):
            option = f"--{name.strip('_').replace('_', '-')}"
            check_path(value, option)
            if name == "to" and value.exists() and not value.is_file():
                raise UserError(f"expected the name of a file, got a folder or a device: {value}", where=option)


def _internal(error: Exception) -> str:
    """Returns the line that reports an unforeseen error: its kind, its message and where it was raised."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "usdn_nas" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    finding = UsdnError(f"{type(error).__name__} at {place}: {error}")
    return f"internal error: {finding}; please report it, with the traceback that --verbose shows"


def command(function: F) -> F:
    """Turns an exception that a command raises into one line on stderr and an exit status."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, _terminated)
        verbose = bool(kwargs.get("verbose"))
        try:
            _check_paths(kwargs)
            function(*args, **kwargs)
            sys.stdout.flush()
        except UserError as error:
            raise _fail(f"error: {error}", 2, trace=verbose) from None
        except RunError as error:
            raise _fail(f"failed: {error}", 1, trace=verbose) from None
        except KeyboardInterrupt:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends SIGTERM after the terminal's Ctrl-C
            raise _fail("interrupted; the same command goes on from here", 130) from None
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            _drop_output()
            raise typer.Exit(1) from None
        except OSError as error:
            if error.filename is None:
                _drop_output()
            raise _fail(f"failed: {os_failure(error)}", 1, trace=verbose) from None
        except MemoryError:
            raise _fail("failed: not enough memory", 1, trace=verbose) from None
        except Exception as error:
            raise _fail(_internal(error), 1, trace=verbose) from None

    return wrapped  # type: ignore[return-value]


def settings_of(set_: list[str] | None, **shortcuts: object) -> list[str]:
    """The texts of ``--set``, then those of options that are short for a setting. None means not given."""
    return [*(set_ or ()), *(f"{key}={value}" for key, value in shortcuts.items() if value is not None)]


def open_study_or_run(
    study: str,
    overrides: list[str] | None = None,
    out: Path | None = None,
    quiet: bool = True,
    verbose: bool = False,
    trust_code: bool = False,
) -> Context:
    """Returns the context of a study (its file or name) or of a run folder.

    Raises:
        ConsentError: A file names user code, and ``trust_code`` is False.
        UserError: There is no such study or folder.
    """
    from usdn_nas.pipeline.context import open_run

    reporter = Reporter() if quiet else Reporter(Console(stderr=True), verbose=verbose)
    return open_run(find_study_or_run(study), tuple(overrides or ()), out, reporter, trust_code=trust_code)


def find_run(study: str, out: Path | None = None) -> Run:
    """Returns the results of a run so far. No network is built, and torch is not imported.

    Raises:
        UserError: There is no such study, or it has not been run.
    """
    from usdn_nas.config import run_folder
    from usdn_nas.report import load_run

    return load_run(run_folder(find_study_or_run(study), out))


def stored_run(study: str, out: Path | None, refusal: ConsentError, *, changes: bool) -> Run:
    """Returns a finished run, so that its stored results can be shown although its code may not be run.

    Args:
        study: The study or run folder.
        out: The run folder, if given.
        refusal: The error that says why the code may not be run.
        changes: True if the user asked for results that are not stored.

    Raises:
        ConsentError: ``refusal``, if the run is not finished or ``changes`` is True.
    """
    from usdn_nas.report import MissingPartError

    if changes:
        raise refusal
    try:
        run = find_run(study, out)
    except UserError:
        raise refusal from None
    try:
        run.evaluation  # noqa: B018
    except MissingPartError:
        raise refusal from None
    sys.stderr.write("shown as stored: nothing is computed again without --trust-code\n")
    return run


def print_gap(evaluation: Mapping[str, Any]) -> None:
    """Prints a table of the gap between the figures on the search split and those on the test split."""
    from usdn_nas.report import gap_table

    frame = gap_table(evaluation).drop(columns=["label", "search_n", "n"])
    title = (
        f"Policies on the search split (n = {evaluation['search_n']:,}) and the test split (n = {evaluation['n']:,})"
    )
    print_frame(frame, Format.table, title)


def print_bits(evaluation: Mapping[str, Any]) -> None:
    """Prints a table of the mean bits of the architecture."""
    from usdn_nas.report import mean_bits_table

    print_frame(
        mean_bits_table(evaluation), Format.table, "Bits of the layers that run, heads of placed exits included"
    )


def print_frame(frame: pd.DataFrame, format: Format, title: str | None = None) -> None:
    """Prints a table to stdout. CSV and JSON are written without wrapping or styling."""
    from usdn_nas.report import render

    rendered = render(frame, format.value, title=title)
    if isinstance(rendered, str):
        sys.stdout.write(rendered)
    else:
        stdout().print(rendered)
