"""``usdn-nas list`` lists studies and search spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from usdn_nas.cli.common import Format, FormatOption, TraceOption, command, print_frame, stdout

__all__ = ["list_"]

_KINDS = {"studies": "study", "search_spaces": "search space"}


@command
def list_(format: FormatOption = Format.table, verbose: TraceOption = False) -> None:
    """Lists the shipped studies and search spaces, and those in ./studies and ./search_spaces.

    Examples:

        usdn-nas list

        usdn-nas list --format json
    """
    import pandas as pd

    from usdn_nas.report.fitting import FittedTable

    if format is not Format.table:
        print_frame(pd.DataFrame([{"kind": _KINDS[f]} | row for f in _KINDS for row in _rows(f)]), format)
        return
    for folder in _KINDS:
        table = FittedTable(folder, prose=True)
        for heading in ("name", "what it is", "where"):
            table.add(heading)
        table.columns[0].no_wrap = True  # users type these names, so they must stay whole
        for row in _rows(folder):
            table.add_row(row["name"], row["about"], row["where"])
        stdout().print(table)


def _rows(folder: Any) -> list[dict[str, str]]:
    """Returns the name, the first comment and the place of every file."""
    from usdn_nas._util.errors import UserError, printable
    from usdn_nas._util.parsing import MAX_TOML_BYTES, read_regular
    from usdn_nas.config import list_toml

    rows = []
    for name, path in list_toml(folder).items():
        try:
            lines = read_regular(path, MAX_TOML_BYTES).splitlines()
        except UserError:  # opening the file shows the reason
            lines = ["# cannot be read", ""]
        comment = lines[: next((i for i, line in enumerate(lines) if line[:1] != "#"), 0)]
        about = printable(" ".join(line.lstrip("# ").strip() for line in comment))
        where = f"./{folder}" if path.parent == Path.cwd() / folder else "shipped"
        rows.append({"name": name, "about": about, "where": where})
    return rows
