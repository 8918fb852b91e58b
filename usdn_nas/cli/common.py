"""What the commands share: options, consoles, exit statuses, how a study is opened."""

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
    """How a table is printed."""

    table = "table"
    csv = "csv"
    json = "json"


def path_parser(option: str) -> Callable[[str], Path]:
    """What makes a path of the text given for ``option``. No text is no path, although `Path` takes it for ``.``."""

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
"""Of commands that say nothing but their result. `command` reads it."""
FormatOption = Annotated[Format, typer.Option("--format", help="For people (table), or for programs (csv, json).")]


def stdout() -> Console:
    """The console for data."""
    return Console()


def _fail(text: str, status: int, *, trace: bool = False) -> typer.Exit:
    if not under_torchrun() or _first_to_fail():
        if trace:
            traceback.print_exc()
        with contextlib.suppress(OSError):  # there is nowhere else to say it
            sys.stderr.write(text + "\n")
    return typer.Exit(status)


def _first_to_fail() -> bool:
    from usdn_nas.pipeline.ranks import first_to_fail

    return first_to_fail()


def under_torchrun() -> bool:
    """Whether this is one of several processes that are to do one command."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _drop_output() -> None:
    """Lets what is still to be printed go nowhere, because Python would fail once more to write it at its end."""
    with contextlib.suppress(OSError):  # a test's output is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_paths(options: Mapping[str, Any]) -> None:
    """Refuses a path among the options that no file can have, before anything is done."""
    from usdn_nas._util.parsing import check_path

    for name, value in options.items():
        if isinstance(value, Path):
            option = f"--{name.strip('_').replace('_', '-')}"
            check_path(value, option)
            if name == "to" and value.exists() and not value.is_file():
                raise UserError(f"expected the name of a file, got a folder or a device: {value}", where=option)


def _internal(error: Exception) -> str:
    """The line for an error that nobody foresaw: what it is and where it was raised, for a report."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "usdn_nas" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    finding = UsdnError(f"{type(error).__name__} at {place}: {error}")
    return f"internal error: {finding}; please report it, with the traceback that --verbose shows"


def command(function: F) -> F:
    """Turns what a command raises into one line on stderr and an exit status."""

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
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it after the terminal's Ctrl-C
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
    """The context of a study's file or name, or of a run's folder.

    Raises:
        ConsentError: A file names code of its own, and ``trust_code`` is False.
        UserError: There is no such study or folder.
    """
    from usdn_nas.pipeline.context import open_run

    reporter = Reporter() if quiet else Reporter(Console(stderr=True), verbose=verbose)
    return open_run(find_study_or_run(study), tuple(overrides or ()), out, reporter, trust_code=trust_code)


def find_run(study: str, out: Path | None = None) -> Run:
    """The finished part of a run, to look at: no network is built, and torch is not imported.

    Raises:
        UserError: There is no such study, or it has not been run.
    """
    from usdn_nas.config import run_folder
    from usdn_nas.report import load_run

    return load_run(run_folder(find_study_or_run(study), out))


def stored_run(study: str, out: Path | None, refusal: ConsentError, *, changes: bool) -> Run:
    """A finished run whose stored results are shown because its code may not run.

    Args:
        refusal: Why the code may not run.
        changes: Whether the user asked for something that is not stored.

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
