"""``usdn-nas compare`` compares finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from usdn_nas.cli.common import Format, FormatOption, TraceOption, command, find_run, path_parser, print_frame, stdout

__all__ = ["compare"]


@command
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or studies by name.")],
    model: Annotated[
        str, typer.Option("--model", help="Which network of each run: kd, ce, ce-temperature, supernet, teacher.")
    ] = "kd",
    format: FormatOption = Format.table,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="Also draws them: a .pdf, .svg or .png.", parser=path_parser("--to")),
    ] = None,
    verbose: TraceOption = False,
) -> None:
    """Compares evaluated runs on the test split: accuracy, average BOPs, exit rates, calibration, bits and MACs.

    BOPs are bit operations. ECE and MCE are the calibration errors of the policy's answers. The figure shows accuracy
    against cost of each run for a range of thresholds.

    Examples:

        usdn-nas compare runs/digits runs/alpha

        usdn-nas compare runs/a runs/b runs/c --to compared.pdf --format csv > compared.csv
    """
    from usdn_nas.report import compare_table, plot_comparison
    from usdn_nas.report.figures.write import laid_out, save_figure

    opened = [find_run(run) for run in runs]
    frame = compare_table(*opened, model=model)
    if to is not None:
        save_figure(laid_out(plot_comparison(*opened, model=model)), to)
    title = f"Runs side by side: {model}, test split (n = {frame['n'][0]:,})"
    print_frame(frame.drop(columns=["n", "relative_bops"]) if format is Format.table else frame, format, title)
    if to is not None and format is Format.table:
        stdout().print(to, highlight=False, soft_wrap=True)
