"""Turns a matplotlib figure into inline SVG that takes the page's colours, in light and in dark mode."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from usdn_nas.report.figures import _style
from usdn_nas.report.figures.write import figure_svg
from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import SearchSpace

__all__ = ["color_variables", "inline_svg"]

_NAMES = ("BLUE", "ORANGE", "GREEN", "VERMILLION", "PURPLE", "SKY", "INK", "MUTED", "FAINT", "BAND", "PAPER")
_VARIABLES = {getattr(_style, name): f"var(--{name.lower()})" for name in _NAMES}


def color_variables(space: SearchSpace) -> tuple[dict[str, str], str, str]:
    """Returns CSS variables for the colours of exits (by depth) and of bit choices (by number of bits).

    Returns:
        A mapping from hex colour to ``var(...)``; the declarations of the variables for a light page; those for a dark
        page.
    """
    depths = len(space.candidates)
    light = dict(enumerate(_style.depth_colors(depths)))
    dark = dict(enumerate(_style.depth_colors(depths, first=0.45, last=1.0)))
    counts = {n for group in space.groups for n in _counts(group.choices)} | {len(_widths(space))}
    for count in sorted(counts):
        for color, darker in zip(_style.bit_colors(count), _style.bit_colors(count, last=0.3), strict=True):
            light[len(light)], dark[len(dark)] = color, darker
    return (
        {color: f"var(--shade-{i})" for i, color in light.items()},
        "".join(f"--shade-{i}:{color};" for i, color in light.items()),
        "".join(f"--shade-{i}:{color};" for i, color in dark.items()),
    )


def _counts(choices: Sequence[Bits]) -> tuple[int, ...]:
    """Returns how many colours a figure of these choices may need: one for each pair, for each W, or for each A."""
    return len(choices), len({w for w, _ in choices}), len({a for _, a in choices})


def _widths(space: SearchSpace) -> set[int]:
    """Returns all bit-widths of quantizers in the space."""
    pairs = [*space.fixed.values(), *(pair for group in space.groups for pair in group.choices)]
    return {width for pair in pairs for width in pair if width < 32}


def inline_svg(figure: Figure, name: str, shades: Mapping[str, str]) -> str:
    """Returns ``figure`` as an ``<svg>`` element for an HTML page.

    Args:
        figure: The figure.
        name: Name that a screen reader reads out. It is also the prefix of all ids in the SVG, so that the figures of a
            page have no id in common.
        shades: The mapping that `color_variables` returns.
    """
    text = figure_svg(figure, text=True)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for color, variable in (_VARIABLES | dict(shades)).items():
        text = re.sub(color, variable, text, flags=re.IGNORECASE)
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--figure-font)", text)
    text = re.sub(r"(font: [^;\"]*?px) '[^;\"]*", r"\1 var(--figure-font)", text)
    width = figure.get_size_inches()[0] * 96
    text = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", text)
    sizes = f"max-width:{width:.0f}px;min-width:{min(0.75 * width, 640):.0f}px"
    opening = f'<svg role="img" aria-label="Figure: {html.escape(name)}" style="{sizes}"'
    return text.replace("<svg", opening, 1)
