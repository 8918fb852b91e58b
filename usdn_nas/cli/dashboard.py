"""``usdn-nas dashboard`` shows the study in optuna-dashboard, live, with a note and figures."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from usdn_nas.cli.common import OutOption, SetOption, StudyArgument, TraceOption, command, open_study_or_run

if TYPE_CHECKING:
    from usdn_nas.report import Run

__all__ = ["dashboard"]

_PICTURES = {"front": "Pareto front", "bits": "Bit-widths and exits of the winner", "importance": "What matters"}


@command
def dashboard(
    study: StudyArgument,
    host: Annotated[str, typer.Option("--host", help="Where it listens.")] = "localhost",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="At which port.")] = 8080,
    note_only: Annotated[
        bool, typer.Option("--note-only", help="Attaches note and figures, and starts no server.")
    ] = False,
    set_: SetOption = None,
    out: OutOption = None,
    verbose: TraceOption = False,
) -> None:
    """Opens the search in optuna-dashboard, even while it runs, with a note and figures of the results so far.

    This needs an extra package: `pip install 'usdn-nas[dashboard]'`. Ctrl-C ends it.

    Examples:

        usdn-nas dashboard digits

        usdn-nas dashboard runs/digits --port 8081

        usdn-nas dashboard digits --note-only
    """
    from usdn_nas.pipeline.study import read
    from usdn_nas.report import load_run
    from usdn_nas.study.dashboard import attach, serve

    context = open_study_or_run(study, set_, out, trust_code=True)  # this command builds no network and no data set
    found = read(context)
    artifacts = context.folder / "search" / "artifacts"
    with TemporaryDirectory() as folder:
        run = load_run(context.folder)
        attach(found, _pictures(run, Path(folder)), lambda addresses: _note(run, addresses), artifacts)
    if not note_only:
        typer.echo(f"http://{host}:{port}/dashboard/studies/{found._study_id}")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            serve(found, artifacts, host, port)


def _pictures(run: Run, folder: Path) -> list[Path]:
    """Draws the figures for which the run has the data, and returns their paths."""
    from usdn_nas.report import MissingPartError
    from usdn_nas.report.figures.write import FIGURES, laid_out, save_figure

    paths = []
    for name in _PICTURES:
        with contextlib.suppress(MissingPartError):
            paths.append(save_figure(laid_out(FIGURES[name](run)), folder / f"{name}.svg"))
    return paths


def _note(run: Run, addresses: Mapping[str, str]) -> str:
    from usdn_nas.report.note import study_note

    return study_note(run, {_PICTURES[Path(name).stem]: address for name, address in addresses.items()})
