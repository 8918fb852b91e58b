"""``usdn-nas export`` writes a point of the front as ``architecture.json``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from usdn_nas.cli.common import (
    DeviceOption,
    DryRunOption,
    OutOption,
    QuietOption,
    SeedOption,
    SetOption,
    StudyArgument,
    TrustOption,
    VerboseOption,
    command,
    open_study_or_run,
    path_parser,
    settings_of,
    stdout,
)
from usdn_nas.cli.plan import show_plan

__all__ = ["export"]


@command
def export(
    study: StudyArgument,
    best: Annotated[bool, typer.Option("--best", help="The best by the study's own objective.")] = False,
    budget: Annotated[
        float | None,
        typer.Option("--budget", metavar="G", min=0, help="The most accurate with at most G GBOPs; 0.004 is 4 MBOPs."),
    ] = None,
    tr: Annotated[
        float | None, typer.Option("--tr", metavar="X", min=0, help="The best accuracy - X x relative BOPs.")
    ] = None,
    trial: Annotated[
        str | None, typer.Option("--trial", metavar="N[.P]", help="A trial, or one policy of it, as 'front' names it.")
    ] = None,
    smoothed: Annotated[
        bool | None,
        typer.Option(
            "--smoothed/--measured", help="Compares points by accuracy smoothed over all trials, or their own."
        ),
    ] = None,
    front: Annotated[
        Path | None,
        typer.Option(
            "--front",
            metavar="DIR",
            help="Writes every point of the front into DIR.",
            parser=path_parser("--front"),
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            show_default="export/architecture.json in the run folder",
            parser=path_parser("--to"),
        ),
    ] = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    out: OutOption = None,
    trust_code: TrustOption = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Writes a point of the Pareto front as architecture.json.

    If no option chooses a point, the settings [export] of the study choose it.

    Examples:

        usdn-nas export digits --best

        usdn-nas export digits --budget 0.004

        usdn-nas export digits --tr 0.05 --smoothed

        usdn-nas export digits --trial 12.3 --to mine.json

        usdn-nas export digits --front fronts/digits
    """
    from usdn_nas._util.errors import UserError, shown
    from usdn_nas._util.validation import validate
    from usdn_nas.config import ExportConfig
    from usdn_nas.pipeline import search
    from usdn_nas.pipeline.ledger import locked
    from usdn_nas.pipeline.stages import Pipeline

    picks = {"--best": best or None, "--budget": budget, "--tr": tr, "--trial": trial, "--front": front}
    given = [name for name, value in picks.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"give one of {' and '.join(given)}")
    if to is not None and to.suffix != ".json":
        raise UserError(f"expected a name that ends in .json, got {shown(to.name)}", where="--to")
    if to is not None and front is not None:
        raise UserError("--to names one file, --front a folder", remedy="give one of them")
    if smoothed is not None:
        if trial is not None or front is not None:
            raise UserError(f"--smoothed is for choosing a point, {'--front' if trial is None else '--trial'} names it")
        set_ = [*(set_ or []), f"export.score={'smoothed' if smoothed else 'measured'}"]
    settings = settings_of(set_, seed=seed, device=device)
    context = open_study_or_run(study, settings, out, quiet, verbose, trust_code)
    pick = context.study.export
    if best or budget is not None or tr is not None or trial is not None:  # replaces the study's own pick
        score = "measured" if trial is not None else pick.score
        pick = validate(ExportConfig, {"budget": budget, "tr": tr, "trial": trial, "score": score}, "")
        context = dataclasses.replace(context, study=context.study.model_copy(update={"export": pick}))
    if dry_run:
        show_plan(context, "export")
        return
    pipeline = Pipeline(context)
    pipeline.check()
    if to is not None:
        search.check_target(to)
    if not pipeline.ledger.unsettled:  # otherwise the folders must be put in order first, below
        pipeline.ledger.require(pipeline.search(), f"usdn-nas search {study}")
    with locked(context.folder):
        pipeline = Pipeline(context)
        pipeline.ledger.require(pipeline.search(), f"usdn-nas search {study}")
        if front is None:
            search.choose(context, pick)
        if front is not None:
            for path in search.export_front(context, front):
                stdout().print(path, highlight=False, soft_wrap=True)
            return
        path = to or context.folder / "export" / "architecture.json"
        if to is None:
            pipeline.ledger.ensure(pipeline.export())
        else:
            search.export(context, to, pick)
    stdout().print(path, highlight=False, soft_wrap=True)
