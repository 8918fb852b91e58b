"""``usdn-nas inspect`` prints a search space with the layers of its network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usdn_nas._util.errors import UserError
from usdn_nas._util.units import bops_unit
from usdn_nas.cli.common import Format, FormatOption, TraceOption, TrustOption, command, stdout
from usdn_nas.cli.lookup import complete_any, find_study_or_run

if TYPE_CHECKING:
    from usdn_nas.space.search_space import SpaceSpec

__all__ = ["inspect"]

_WIDE = 76
"""In a terminal of at least this width, in characters, the table of layers also has weights and signs."""


@command
def inspect(
    space: Annotated[
        str,
        typer.Argument(
            metavar="SPACE",
            autocompletion=complete_any,
            help="A search space, else a study or a run for the space that it uses: a file, a folder or a name. "
            "Or a network: 'torchvision:NAME', 'package.module:function'.",
        ),
    ],
    format: FormatOption = Format.table,
    input_shape: Annotated[
        str | None,
        typer.Option("--input", metavar="CxHxW", help="Of a network: size of its images.", show_default="its own"),
    ] = None,
    segments: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of a network: about how many segments of equal MACs.", show_default="one for every block"
        ),
    ] = None,
    trust_code: TrustOption = False,
    verbose: TraceOption = False,
) -> None:
    """Prints the network of a search space as a chain of segments, with layers, MACs, groups, choices, exits and costs.

    If you give a network instead of a search space, it shows where the network can be cut, and which parts can be
    quantized and which cannot. Nothing is run, and no memory is used for weights. CSV is the table of layers only; JSON
    holds everything. Costs are in bit operations (BOPs).

    Examples:

        usdn-nas inspect resnet18_imagenet

        usdn-nas inspect search_spaces/resnet_digits.toml --format json

        usdn-nas inspect runs/digits

        usdn-nas inspect torchvision:mobilenet_v2 --segments 8
    """
    import pandas as pd

    from usdn_nas.networks.empty import resolve_shapes, space_of
    from usdn_nas.report import render
    from usdn_nas.space.inspection import inspect_space

    if ":" in space:  # a user who types the name of a function consents to it
        spec = space_of(space, input_shape, segments)
    elif input_shape is not None or segments is not None:
        raise UserError("--input and --segments belong to a network", remedy="the search space's file sets them")
    else:
        spec = _spec(space, trust_code)
    found = inspect_space(resolve_shapes(spec))
    if format is Format.json:
        typer.echo(json.dumps(found, indent=2))
    elif format is Format.csv:
        typer.echo(render(pd.DataFrame(found["layers"]), "csv"), nl=False)
    else:
        _print_tables(found)


def _spec(name: str, trust_code: bool) -> SpaceSpec:
    """The search space of this name, or the one that the study or run of this name uses."""
    from usdn_nas.config import find_toml
    from usdn_nas.pipeline.context import open_run
    from usdn_nas.space.search_space import load_space

    try:
        file = find_toml(name, "search_spaces")
    except UserError as no_space:
        try:
            found = find_study_or_run(name)
        except UserError:
            raise no_space from None
        return open_run(found, trust_code=trust_code).spec
    return load_space(file, trust_code=trust_code)


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
    scale, unit = bops_unit([*found["uniform_bops"].values(), *found["uniform_bops_all_layers"].values()])
    table(
        f"{unit} without internal classifiers",
        ["bits", "8-bit ends", "all layers"],
        [
            [
                f"{b}/{b}",
                f"{found['uniform_bops'][b] / scale:.4g}",
                f"{found['uniform_bops_all_layers'][b] / scale:.4g}",
            ]
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
    _print_opaque(found, table, lambda text: console.print(text, highlight=False))
    calls = ", ".join(f"{name} ({count})" for name, count in found["not_counted"].items())
    console.print(f"Not counted (calls in one pass with all exits): {calls}", highlight=False)


def _print_opaque(found: dict[str, Any], table: Callable[..., None], say: Callable[[str], None]) -> None:
    """Prints the parts of the network that stay at full precision, and the parts that were left out."""
    if found["opaque"]:
        table(
            "At full precision: opaque parts",
            ["part", "what", "MACs", "share"],
            [
                [x["part"], x["name"].removeprefix(f"{x['part']}."), x["macs"], f"{x['share']:.1%}"]
                for x in found["opaque"]
            ],
        )
    for path, why in found["kept"].items():
        say(f"Run as it stands: {path} ({why})")
    if found["dropped"]:
        say(f"Dropped, for the logits do not depend on it (auxiliary heads): {', '.join(found['dropped'])}")
    say(f"Quantized: {found['quantized_share']:.1%} of the MACs")
