"""Writes one self-contained HTML page about a run. It loads no other file, so it opens offline and can be mailed."""

from __future__ import annotations

from html import escape
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from usdn_nas._util.files import write_text
from usdn_nas._util.units import cost
from usdn_nas.report._markup import Section, paragraph, prose, section
from usdn_nas.report._sections import SECTIONS
from usdn_nas.report._style_sheet import STYLE_SHEET
from usdn_nas.report._summary import result, searched, test_policy
from usdn_nas.report._svg import color_variables, inline_svg
from usdn_nas.report.figures.write import Drawn, draw_figures
from usdn_nas.report.run import MissingPartError, Run

__all__ = ["write_report"]

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title · usdn-nas</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$summary
$tiles
<nav aria-label="Sections">$links</nav>
</header>
<main>
$sections
</main>
<footer>$missing</footer>
</body>
</html>
""")


def _tiles(run: Run) -> str:
    """Returns boxes with the retrained winner's main figures on the test split; empty if it was not evaluated."""
    policy = test_policy(run)
    if policy is None:
        return ""
    evaluation = run.evaluation
    early = sum(row["exit_rate"] for row in evaluation["models"]["kd"]["exits"][:-1])
    reference = f"of the reference: 4/4, 8-bit ends, {cost(evaluation['reference_bops'])}"
    tiles = (
        (f"{100 * policy['accuracy']:.2f}%", f"accuracy, test split, n = {evaluation['n']:,}"),
        (cost(policy["average_bops"]), "an image on average"),
        (f"{100 * policy['relative_bops']:.1f}%", reference),
        (f"{100 * early:.1f}%", "of the images leave early"),
    )
    cells = (f'<div class="tile"><b>{prose(value)}</b><span>{prose(text)}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _summary(run: Run) -> str:
    try:
        return paragraph(searched(run), "lead") + paragraph(result(run), "lead")
    except MissingPartError as missing:
        return paragraph(searched(run), "lead") + paragraph(f"Unfinished: {missing}", "note")


def page(run: Run, drawn: Drawn) -> str:
    """Returns the HTML text of the page."""
    shades, light, dark = color_variables(run.space)
    figures: dict[str, str | MissingPartError] = {}
    parts: list[Section] = []
    missing: dict[str, None] = {}
    for name, figure in drawn.items():
        figures[name] = inline_svg(figure, name, shades) if isinstance(figure, Figure) else figure
    for build in SECTIONS:
        try:
            parts.append(build(run, figures))
        except MissingPartError as reason:
            missing[str(reason)] = None
    return _PAGE.substitute(
        title=escape(run.name),
        style=STYLE_SHEET.replace("@LIGHT@", light).replace("@DARK@", dark),
        summary=_summary(run),
        tiles=_tiles(run),
        links="".join(f'<a href="#{part.key}">{escape(part.title)}</a>' for part in parts),
        sections="\n".join(section(part) for part in parts),
        missing=_left_out(list(missing)),
    )


def _left_out(reasons: list[str]) -> str:
    if not reasons:
        return ""
    items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
    return f"<p>Left out, as it is not there:</p><ul>{items}</ul>"


def write_report(run: Run, path: Path | str, *, drawn: Drawn | None = None) -> Path:
    """Writes the page atomically and returns its path. The page names the parts of the run that are missing.

    Args:
        run: The run.
        path: The file to write.
        drawn: Figures of the same run from `draw_figures`; None: they are drawn here.

    Raises:
        UserError: A file of the run is damaged.
    """
    path = Path(path)
    write_text(path, page(run, draw_figures(run) if drawn is None else drawn))
    return path
