"""A rich table that fits narrow terminals: it first breaks its headings, then drops its padding, then breaks cells."""

from __future__ import annotations

import copy
import textwrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

__all__ = ["FittedTable"]

_UNBOUNDED = 10_000


class FittedTable(Table):
    """A table of texts under a title that may be wider than the table.

    Rich's own table narrows the widest column first, and breaks its cells even if headings of other columns could still
    be broken.

    Args:
        title: Title above the table.
        prose: True if a column holds sentences, which may break anywhere. The padding then stays.
    """

    def __init__(self, title: str | None = None, *, prose: bool = False) -> None:
        super().__init__(header_style="bold")
        self.heading = title
        self.prose = prose

    def add(self, label: str, *, numeric: bool = False) -> None:
        """Adds a column. With ``numeric``, its cells are aligned to the right."""
        self.add_column(label, justify="right" if numeric else "left", overflow="fold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.heading:
            yield Text(self.heading, style="table.title")
        table: Table = copy.copy(self)
        for narrow in (_break_headings,) if self.prose else (_break_headings, _drop_padding):
            unbounded = options.update(max_width=_UNBOUNDED)
            if table.__rich_measure__(console, unbounded).maximum <= options.max_width:
                break
            table = copy.copy(table)
            narrow(table)
        yield from Table.__rich_console__(table, console, options)


def _break_headings(table: Table) -> None:
    table.columns = [copy.copy(column) for column in table.columns]
    for column in table.columns:
        label = str(column.header)
        longest = max(map(len, (*map(str, column.cells), *label.split())), default=1)
        column.header = "\n".join(textwrap.wrap(label, longest, break_long_words=False, break_on_hyphens=False))


def _drop_padding(table: Table) -> None:
    table.padding = (0, 0)
