"""``usdn-nas data`` tells whether a data set is there, which folders were searched, and how to get it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from usdn_nas.cli.common import Format, FormatOption, TraceOption, command, path_parser, stdout

__all__ = ["data"]


@command
def data(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="digits, fashion-mnist, cifar10, ... or package.module:function")
    ],
    root: Annotated[
        Path | None, typer.Option("--root", metavar="DIR", help="Where to look.", parser=path_parser("--root"))
    ] = None,
    format: FormatOption = Format.table,
    verbose: TraceOption = False,
) -> None:
    """Tells whether a data set is there, which folders were searched, and how to get it.

    The exit status is 1 if the data set is not there.

    Examples:

        usdn-nas data digits

        usdn-nas data fashion-mnist --root data/fashion
    """
    from rich.table import Table
    from rich.text import Text

    from usdn_nas._util.errors import printable
    from usdn_nas._util.validation import validate
    from usdn_nas.config import DataConfig
    from usdn_nas.data import describe_data

    config = validate(DataConfig, {"name": name, "root": None if root is None else str(root)}, "")
    found = describe_data(config, trust_code=True)  # a user who types the name of a function consents to it
    if format is Format.table:
        console = stdout()

        def line(text: str) -> None:
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        line(f"{name}: {'present' if found.present else 'not there'}")
        for place in found.looked_in:
            line(f"  looked in {printable(str(place))}")
        if found.files:
            table = Table()
            for heading in ("file", "found", "bytes"):
                table.add_column(heading, overflow="fold", justify="right" if heading == "bytes" else "left")
            for file in found.files:
                size = "" if file.size_bytes is None else f"{file.size_bytes:,}"
                table.add_row(file.name, Text("-" if file.path is None else printable(str(file.path))), size)
            console.print(table)
        console.print(found.how_to_get, highlight=False, markup=False)
    elif format is Format.csv:
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(("file", "found", "bytes"))
        for file in found.files:
            path = "" if file.path is None else printable(str(file.path))
            rows.writerow((file.name, path, "" if file.size_bytes is None else file.size_bytes))
    else:
        payload = {
            "name": name,
            "present": found.present,
            "looked_in": [str(place) for place in found.looked_in],
            "files": [
                {"name": f.name, "path": f.path and str(f.path), "size_bytes": f.size_bytes} for f in found.files
            ],
            "how_to_get": found.how_to_get,
        }
        typer.echo(json.dumps(payload, indent=2))
    if not found.present:
        raise typer.Exit(1)
