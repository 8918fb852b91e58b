"""``usdn-nas plot`` draws one figure of a run, of several runs, or of architectures into a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usdn_nas._util.errors import UserError, nearest
from usdn_nas.cli.common import TraceOption, TrustOption, command, find_run, path_parser, stdout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from usdn_nas.space.architecture import Architecture
    from usdn_nas.space.search_space import SearchSpace

__all__ = ["plot"]

_FIGURES = (
    "bits, front, exits, reliability, thresholds, curves, budgeted, sensitivity, importance, history, ladder, "
    "quantizers, training"
)


class ShareName(StrEnum):
    """The quantity whose share of each layer is drawn above the bits."""

    macs = "macs"
    bops = "bops"


@command
def plot(
    figure: Annotated[str, typer.Argument(metavar="FIGURE", help=_FIGURES)],
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A run's folder or its study. Of 'front' and 'history' several runs, of 'bits' also architecture.json "
            "files, several one under the other.",
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="A .pdf, .svg or .png.",
            show_default="<figure>.pdf",
            parser=path_parser("--to"),
        ),
    ] = None,
    trial: Annotated[
        list[str] | None,
        typer.Option("--trial", metavar="N.P", help="Of 'bits': this point of the front, not the winner. Repeatable."),
    ] = None,
    share: Annotated[
        ShareName | None, typer.Option("--share", help="Of 'bits': also each layer's part of the MACs or BOPs.")
    ] = None,
    trust_code: TrustOption = False,
    verbose: TraceOption = False,
) -> None:
    """Draws one figure into a file: vector graphics for a paper (.pdf, .svg), or an image (.png).

    `usdn-nas report` draws all figures of a run into its folder.

    Examples:

        usdn-nas plot front runs/digits

        usdn-nas plot front runs/digits runs/alpha --to fronts.svg

        usdn-nas plot bits runs/digits --share bops

        usdn-nas plot bits runs/digits --trial 0.0 --trial 0.1 --to points.png

        usdn-nas plot bits runs/digits/export/architecture.json
    """
    from usdn_nas.report.figures.write import FIGURES, laid_out, save_figure

    if figure not in FIGURES:
        raise UserError(f"no such figure: '{figure}'", remedy=nearest(figure, FIGURES))
    if figure != "bits" and (trial or share):
        raise UserError("--trial and --share belong to the figure 'bits'")
    axes = _bits(what, trial or [], share, trust_code) if figure == "bits" else _of_runs(figure, what)
    path = save_figure(laid_out(axes), to or Path(f"{figure}.pdf"))
    stdout().print(path, highlight=False, soft_wrap=True)


def _of_runs(figure: str, what: list[str]) -> Axes | list[Axes]:
    from usdn_nas.report import plot_front, plot_history
    from usdn_nas.report.figures.write import FIGURES

    run, *others = map(find_run, what)
    if figure == "front":
        return plot_front(run, others=others)
    if figure == "history":
        return plot_history(run, others=others)
    if others:
        raise UserError(f"the figure '{figure}' shows one run, got {len(what)}")
    return FIGURES[figure](run)


def _bits(what: list[str], trials: list[str], share: Any, trust_code: bool) -> Axes:
    from usdn_nas.report import plot_bits

    found = {name: pair for one in what for name, pair in _architectures(one, trials, trust_code).items()}
    if len(found) < len(what) * max(len(trials), 1):
        raise UserError("two of the architectures have one name", remedy="files of different names")
    spaces = [space for space, _ in found.values()]
    if any(space.chain != spaces[0].chain for space in spaces):
        raise UserError("layers of different networks do not stand under each other", remedy="plot them one by one")
    several = {name: architecture for name, (_, architecture) in found.items()}
    return plot_bits(spaces[0], several if len(several) > 1 else next(iter(several.values())), share=share)


def _architectures(what: str, trials: list[str], trust_code: bool) -> dict[str, tuple[SearchSpace, Architecture]]:
    """Returns search space and architecture by name: of a file, of a run's winner, or of points of a run's front."""
    if what.endswith(".json"):
        from usdn_nas.export.document import read_architecture

        if trials:
            raise UserError("--trial is a point of a run's front", where=what)
        file = read_architecture(what, trust_code=trust_code)
        return {Path(what).stem: (file.space, file.architecture)}
    run = find_run(what)
    if not trials:
        return {run.path.resolve().name: (run.space, run.winner)}
    return {f"{run.path.resolve().name} {name}": (run.space, run.point(name)) for name in trials}
