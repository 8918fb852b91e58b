"""A matplotlib figure as inline SVG that follows the page's colours, in light and in dark."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from matplotlib.figure import Figure

from usdn_nas.report.figures import _style
from usdn_nas.report.figures.write import figure_svg

__all__ = ["depth_variables", "inline_svg"]

_NAMES = ("BLUE", "ORANGE", "GREEN", "VERMILLION", "PURPLE", "SKY", "INK", "MUTED", "FAINT", "BAND", "PAPER")
_VARIABLES = {getattr(_style, name): f"var(--{name.lower()})" for name in _NAMES}


def depth_variables(exits: int) -> tuple[dict[str, str], str, str]:
    """Colours of ``exits`` depths as CSS variables.

    Returns:
        Hex colour -> ``var(...)``; the variables' declarations for a light page, and for a dark one.
    """
    light = _style.depth_colors(exits)
    dark = _style.depth_colors(exits, first=0.45, last=1.0)
    names = [f"--depth-{i}" for i in range(len(light))]
    return (
        {color: f"var({name})" for color, name in zip(light, names, strict=True)},
        "".join(f"{name}:{color};" for name, color in zip(names, light, strict=True)),
        "".join(f"{name}:{color};" for name, color in zip(names, dark, strict=True)),
    )


def inline_svg(figure: Figure, name: str, depths: Mapping[str, str]) -> str:
    """``figure`` as an ``<svg>`` element to stand in a page.

    Args:
        figure: The figure.
        name: What a screen reader says, and the prefix of its ids: figures of one page do not share any.
        depths: From `depth_variables`.
    """
    text = figure_svg(figure, text=True)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    for color, variable in (_VARIABLES | dict(depths)).items():
        text = re.sub(color, variable, text, flags=re.IGNORECASE)
    text = re.sub(r"font-family: [^;\"]+", "font-family: var(--figure-font)", text)
    text = re.sub(r"(font: [^;\"]*?px) '[^;\"]*", r"\1 var(--figure-font)", text)
    width = figure.get_size_inches()[0] * 96
    text = re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", text)
    text = re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", text)
    sizes = f"max-width:{width:.0f}px;min-width:{min(0.75 * width, 640):.0f}px"
    opening = f'<svg role="img" aria-label="Figure: {html.escape(name)}" style="{sizes}"'
    return text.replace("<svg", opening, 1)
