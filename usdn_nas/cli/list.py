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
    from rich.table import Table

    from usdn_nas.config import list_toml

    for folder in ("studies", "search_spaces"):
        table = Table(title=folder, title_justify="left")
        table.add_column("name")
        table.add_column("what it is", overflow="fold")
        table.add_column("file", overflow="fold")
        for name, path in list_toml(folder).items():
            lines = path.read_text(encoding="utf-8").splitlines()
            about = [
                line.lstrip("# ").strip() for line in lines[: next((i for i, x in enumerate(lines) if x[:1] != "#"), 0)]
            ]
            table.add_row(name, " ".join(about), str(path))
        stdout().print(table)
