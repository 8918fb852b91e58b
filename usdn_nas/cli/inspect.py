"""``usdn-nas inspect``: a search space resolved against its network."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from usdn_nas.cli.common import Format, FormatOption, command, stdout

__all__ = ["inspect"]

_WIDE = 76
"""Columns of a terminal from which on the table of layers also has weights and signs."""


@command
def inspect(
    space: Annotated[str, typer.Argument(metavar="SPACE", help="A search space's TOML file or its name.")],
    format: FormatOption = Format.table,
) -> None:
    """Prints the chain of a search space: segments, layers, MACs, groups, choices, exits, size, BOPs.

    CSV is the table of layers; JSON holds everything.

    Examples:

        usdn-nas inspect resnet18_imagenet

        usdn-nas inspect search_spaces/resnet_digits.toml --format json
    """
    import pandas as pd

    from usdn_nas.config import find_toml
    from usdn_nas.inspection import inspect_space
    from usdn_nas.networks.build import resolve_space
    from usdn_nas.report import render
    from usdn_nas.space import load_space

    found = inspect_space(resolve_space(load_space(find_toml(space, "search_spaces")))[0])
    if format is Format.json:
        typer.echo(json.dumps(found, indent=2))
    elif format is Format.csv:
        typer.echo(render(pd.DataFrame(found["layers"]), "csv"), nl=False)
    else:
        _print_tables(found)


def _print_tables(found: dict[str, Any]) -> None:
    from usdn_nas.report.fitting import FittedTable

    console = stdout()

    def table(title: str, headings: list[str], rows: list[list[Any]]) -> None:
        grid = FittedTable(title)
        for index, heading in enumerate(headings):
            grid.add(heading, numeric=bool(rows) and isinstance(rows[0][index], int))
        for row in rows:
            grid.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
        console.print(grid)

    def pairs(choices: list[list[int]]) -> str:
        return " ".join(f"{w}/{a}" for w, a in choices)

    def grouping(layer: dict[str, Any]) -> str:
        return layer["group"] or f"fixed {pairs([layer['fixed']])}"

    def short(layer: dict[str, Any]) -> str:
        return str(layer["name"]).removeprefix("exit:").removeprefix(f"{layer['part']}.")

    def place(layer: dict[str, Any]) -> str:
        return layer["part"] if layer["after"] in (layer["part"], None) else f"{layer['part']} ({layer['after']})"

    def more(layer: dict[str, Any]) -> tuple[int, str]:
        return layer["weights"], "signed" if layer["signed"] else "unsigned"

    layers = found["layers"]
    table(
        f"{found['network']}, input {'x'.join(map(str, found['input_shape']))}, {found['num_classes']} classes",
        ["segment", "layer", "MACs", "group", *(("weights", "input") if console.width >= _WIDE else ())],
        [
            [x["part"], short(x), x["macs"], grouping(x), *(more(x) if console.width >= _WIDE else ())]
            for x in layers
            if not x["exit"]
        ],
    )
    table(
        "Heads of the exits (in brackets: the segment they follow)",
        ["exit", "layer", "MACs", "group"],
        [[place(x), short(x), x["macs"], grouping(x)] for x in layers if x["exit"]],
    )
    table(
        "Groups, choices as W/A",
        ["group", "layers", "choices"],
        [[g["name"], len(g["layers"]), pairs(g["choices"])] for g in found["groups"]],
    )
    table(
        "GBOPs without internal classifiers",
        ["bits", "8-bit ends", "all layers"],
        [
            [f"{b}/{b}", f"{found['uniform_bops'][b] / 1e9:.4g}", f"{found['uniform_bops_all_layers'][b] / 1e9:.4g}"]
            for b in found["uniform_bops"]
        ],
    )
    size = found["size"]
    console.print(
        f"MACs without internal classifiers: {found['macs']:,} ({found['macs'] / 1e6:,.2f} M)", highlight=False
    )
    console.print(
        f"Size: {size['bit_configurations']:,} bit configurations x {size['placements']:,} placements of exits "
        f"= {size['points']:,}",
        highlight=False,
    )
    calls = ", ".join(f"{name} ({count})" for name, count in found["not_counted"].items())
    console.print(f"Not counted (calls in one pass with all exits): {calls}", highlight=False)
