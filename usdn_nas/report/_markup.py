"""Builds pieces of HTML, such as tables and lists. Every text is escaped here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import pandas as pd

from usdn_nas.report.rendering import columns

__all__ = ["Section", "definitions", "flatten", "paragraph", "prose", "script_json", "section", "table"]

_BADGES = {"search": "search split, selected on it", "test": "test split"}


@dataclass(frozen=True)
class Section:
    """A section of the page. ``split`` is the split that its figures were measured on; None if there are several."""

    key: str
    title: str
    body: str
    split: Literal["search", "test"] | None = None


def prose(text: str) -> str:
    """Returns ``text`` escaped, with no line break inside "n = 10"."""
    return escape(text).replace("n = ", "n\u00a0=\u00a0")


def section(content: Section) -> str:
    badge = f'<span class="badge {content.split}">{_BADGES[content.split]}</span>' if content.split else ""
    return f'<section id="{content.key}"><h2>{escape(content.title)} {badge}</h2>\n{content.body}\n</section>'


def paragraph(text: str, css: str = "") -> str:
    return f"<p{f' class={chr(34)}{css}{chr(34)}' if css else ''}>{prose(text)}</p>"


def table(frame: pd.DataFrame, caption: str = "", *, total: bool = False) -> str:
    """Returns ``frame`` as an HTML table that scrolls on a narrow screen. ``total``: the last row holds totals."""
    shown = columns(frame)
    css = [' class="number"' if column.numeric else "" for column in shown]
    head = "".join(f'<th scope="col"{c}>{escape(column.label)}</th>' for c, column in zip(css, shown, strict=True))
    rows = []
    for i in range(len(frame)):
        cells = "".join(f"<td{c}>{escape(column.cells[i])}</td>" for c, column in zip(css, shown, strict=True))
        rows.append(f"<tr{' class=total' if total and i == len(frame) - 1 else ''}>{cells}</tr>")
    above = paragraph(caption, "note") if caption else ""
    body = "\n".join(rows)
    return f'{above}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yields the dotted path and the text of every setting. Settings that are None are left out."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flatten(inner, f"{prefix}{key}.")
        elif inner is not None:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner)


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{items}</dl>"


def script_json(value: Any) -> str:
    """Returns ``value`` as JSON for a ``<script>`` element. It escapes ``<`` and ``&`` so as not to end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")
