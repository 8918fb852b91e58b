"""``usdn-nas list``: studies and search spaces."""

from __future__ import annotations

from usdn_nas.cli.common import command, stdout

__all__ = ["list_"]


@command
def list_() -> None:
    """Lists the shipped studies and search spaces, and those of ./studies and ./search_spaces.

    Example:

        usdn-nas list
    """
    from pathlib import Path

    from usdn_nas.config import list_toml
    from usdn_nas.report.fitting import FittedTable

    for folder in ("studies", "search_spaces"):
        table = FittedTable(folder, prose=True)
        for heading in ("name", "what it is", "where"):
            table.add(heading)
        table.columns[0].no_wrap = True  # it is what people type
        for name, path in list_toml(folder).items():
            lines = path.read_text(encoding="utf-8").splitlines()
            about = [
                line.lstrip("# ").strip() for line in lines[: next((i for i, x in enumerate(lines) if x[:1] != "#"), 0)]
            ]
            table.add_row(name, " ".join(about), f"./{folder}" if path.parent == Path.cwd() / folder else "shipped")
        stdout().print(table)
