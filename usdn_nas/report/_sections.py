"""Builds the sections of the report. Each function raises `MissingPartError` if its part of the run is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape

import pandas as pd

from usdn_nas.report._interactive import front_payload
from usdn_nas.report._markup import Section, definitions, flatten, paragraph, prose, script_json, table
from usdn_nas.report._script import SCRIPT
from usdn_nas.report.figures._style import compared
from usdn_nas.report.figures.reliability import FEW
from usdn_nas.report.run import MissingPartError, Run
from usdn_nas.report.tables import (
    anytime_table,
    bits_table,
    calibration_table,
    gap_table,
    ladder_table,
    overthinking_table,
    stage_table,
    table1,
    table1_paper,
    table2_paper,
    trade_off_table,
)
from usdn_nas.space.cost import layer_table, mean_bits

__all__ = ["SECTIONS", "Figures"]

Figures = Mapping[str, str | MissingPartError]
"""Maps the name of each figure to its inline SVG, or to the error that says which part of the run is missing."""


def _svg(figures: Figures, name: str) -> str:
    drawn = figures[name]
    if isinstance(drawn, MissingPartError):
        raise drawn
    return drawn


def _figure(figures: Figures, name: str, caption: str) -> str:
    svg = _svg(figures, name)
    return f'<figure><div class="scroll">{svg}</div><figcaption>{prose(caption)}</figcaption></figure>'


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _front(run: Run, figures: Figures) -> Section:
    data = script_json(front_payload(run))
    groups = [group.name for group in run.space.groups]
    rows = run.front.drop(columns=groups) if len(groups) > 12 else run.front
    body = (
        paragraph(
            "Accuracy and average BOPs of the supernet's configurations. The front was selected on the very images it "
            "is measured on, so it flatters; filled diamonds and squares are retrained networks on the test split. "
            "Point at a mark for its bits, exits and thresholds; click to mark it; arrow keys walk along the front. "
            f"The search ran the supernet with {run.engine_text}.",
            "note",
        )
        + '<figure class="interactive"><div id="front-chart" aria-label="Pareto front: accuracy against average BOPs">'
        f"{_svg(figures, 'front')}</div>"
        '<ul id="front-legend" class="legend" hidden></ul>'
        '<div id="front-point" class="point" aria-live="polite" hidden></div></figure>'
        + _details(f"The front as a table ({len(rows)} points)", table(rows))
        + f'<script type="application/json" id="front-data">{data}</script><script>{SCRIPT}</script>'
    )
    return Section("front", "Pareto front", body, "search")


def _matters(run: Run, figures: Figures) -> Section:
    body = _figure(
        figures,
        "importance",
        "How much of the spread between configurations each group explains (shares of variance), and how many points "
        "of the front place each candidate exit.",
    ) + _figure(
        figures,
        "sensitivity",
        "What each choice of a group does to the last exit's accuracy, all other groups averaged over.",
    )
    return Section("matters", "Which groups and exits matter", body, "search")


def _history(run: Run, figures: Figures) -> Section:
    caption = (
        'Hypervolume of what was found so far, of the final value. Where it says "at least", only points of the final '
        "front and the policy that stands for each trial are on record: exact at the end, a lower bound before."
    )
    return Section("history", "How fast the search got there", _figure(figures, "history", caption), "search")


def _bits(run: Run, figures: Figures) -> Section:
    winner = run.winner
    rows = layer_table(run.space, winner)
    means = []
    for label, chosen in (("searched layers", [row for row in rows if row["group"]]), ("all layers", rows)):
        mean = mean_bits(chosen)
        weighted = f"{mean['mac_weighted_weight_bits']:.2f}/{mean['mac_weighted_activation_bits']:.2f}"
        plain = f"{mean['mean_weight_bits']:.2f}/{mean['mean_activation_bits']:.2f}"
        means.append((label, f"mean W/A {plain}, weighted by MACs {weighted}"))
    where = ", ".join(f"{name} (≥ {t:.3f})" for name, t in zip(winner.exits, winner.thresholds, strict=True)) or "none"
    body = (
        _figure(
            figures,
            "bits",
            "Bit-widths of weights (W) and of each layer's input (A), in the order of the chain, blocks as bands. "
            "Outlined bars are not searched; a dashed line is a placed exit with its confidence threshold. "
            "Heads of exits are in the table.",
        )
        + definitions([("exits", where), *means, ("digest", winner.digest)])
        + _details("Every layer", table(bits_table(run.space, winner)))
    )
    return Section("bits", "The winner's bit-widths and exits", body)


def _exits(run: Run, figures: Figures) -> Section:
    n = run.evaluation["n"]
    body = table(
        table1(run.evaluation, compared(run.evaluation)[0]),
        "Cost share = exit rate × cumulative cost (the paper's Table I prints this); cumulative cost = what a sample "
        f"that leaves there has cost, heads included. n = {n:,}.",
        total=True,
    )
    models = [name for name in compared(run.evaluation) if run.evaluation["models"][name]["shared"]]
    if models:
        rows = [table1_paper({f"{run.name}, {name.upper()}": run.evaluation}, name) for name in models]
        caption = (
            "Cost (G) = exit rate × cumulative cost. Exits are numbered along the chain; the last is the final one."
        )
        body += "<h3>With one threshold for all exits, as the paper prints it</h3>" + table(pd.concat(rows), caption)
    body += _figure(figures, "exits", "Thresholds in the labels are those of the KD model, fitted on the search split.")
    if isinstance(figures["thresholds"], str):
        caption = (
            "One threshold for all exits, moved from low to high; star and cross: the fitted thresholds, exit by exit."
        )
        body += "<h3>Threshold sweep</h3>" + _figure(figures, "thresholds", caption)
    return Section("exits", "Exit rates and cost (Table I)", body, "test")


def _calibration(run: Run, figures: Figures) -> Section:
    body = ""
    if run.evaluation["table2"]:
        caption = "Over all samples at each exit; the last is the final one. NonKD: cross-entropy alone."
        body += table(_signed_changes(table2_paper(run.evaluation)), caption)
    else:
        body += paragraph("The winner was not retrained with cross-entropy alone, so there is no comparison.", "note")
    body += _figure(
        figures,
        "reliability",
        "Accuracy against confidence over all samples at each exit; above, samples in each bin. Above the diagonal: "
        f"underconfident. Small marks: bins with fewer than {FEW} samples.",
    )
    caption = (
        "AUROC: does an exit's confidence tell right from wrong? A dash: undefined, for all its answers are right or "
        "all wrong. Temperatures are fitted on the search split."
    )
    body += "<h3>Each exit</h3>" + table(calibration_table(run.evaluation), caption)
    return Section("calibration", "Calibration and distillation (Table II)", body, "test")


def _signed_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns Table II as texts: fractions with three decimals; in the last row, percentages with a sign."""
    forms = [*["{:.3f}"] * (len(frame) - 1), "{:+.2f}"]
    texts = {
        name: frame[name]
        if name == "loss"
        else ["–" if math.isnan(value) else form.format(value) for form, value in zip(forms, frame[name], strict=True)]
        for name in frame
    }
    return pd.DataFrame(texts)


def _trade_offs(run: Run, figures: Figures) -> Section:
    body = _figure(
        figures,
        "curves",
        "Does distillation, or a temperature for each exit (Guo et al. 2017), move the trade-off? Left, one threshold "
        "for all exits; right, thresholds fitted exit by exit on the search split.",
    )
    caption = (
        "Accuracy within a budget (of the reference's BOPs). The policy is the most accurate of its curve's within the "
        "budget on the search split. CE+T: with temperatures; shared: one threshold for all exits; each: one an exit."
    )
    body += table(trade_off_table(run.evaluation), caption)
    return Section("trade-offs", "Distillation and the trade-off", body, "test")


def _protocols(run: Run, figures: Figures) -> Section:
    body = _figure(
        figures,
        "budgeted",
        "As MSDNet's authors evaluate: lines, thresholds with which shares in proportion to q, q^2, ... of the samples "
        "leave at each exit, read off the search split; marks, every sample answered at that exit.",
    )
    body += _details("Anytime, the winner's exits", table(anytime_table(run.evaluation, compared(run.evaluation)[0])))
    caption = (
        "As SDN's authors measure: an earlier exit has a sample right that the final one has right (wasteful) or wrong "
        "(destructive); the oracle stops at the first exit that is right. Confusion: how far the exits' answers are "
        "from the final one's, in standard deviations; AUROC: how well it foretells a wrong final answer."
    )
    body += "<h3>Overthinking and confusion</h3>" + table(overthinking_table(run.evaluation), caption)
    return Section("protocols", "As the authors of MSDNet and SDN evaluate", body, "test")


def _gap(run: Run, figures: Figures) -> Section:
    frame = gap_table(run.evaluation)
    if frame.empty:
        raise MissingPartError("no model was measured on both splits", where="evaluation.json")
    caption = "Thresholds are fitted on the search split; the test split is read once."
    return Section("gap", "Search against test", table(frame.drop(columns="model"), caption))


def _ladder(run: Run, figures: Figures) -> Section:
    ladder = run.ladder
    if not ladder["rows"]:
        raise MissingPartError("no bit-widths are common to all groups", where="supernet/ladder.json")
    verdict = "climbs" if ladder["monotone"] else "does not climb"
    text = f"Accuracy {verdict} with the bit-width (each step no worse than -2 standard errors, paired). No early exit."
    body = paragraph(text) + _figure(figures, "ladder", "Final exit: bars are standard errors of the paired step.")
    body += _details("As a table", table(ladder_table(ladder), f"n = {ladder['n']:,}"))
    if isinstance(figures["quantizers"], str):
        caption = (
            "Lines: medians over the layers; bands: the middle half. A weight oscillates where its code changes back "
            "and forth with a frequency above .005 (Nagel et al., 2022)."
        )
        body += "<h3>Quantizers in training</h3>" + _figure(figures, "quantizers", caption)
        found = run.diagnostics
        body += paragraph(_wrong(found["collapsed"], found["stale"]))
    return Section("ladder", "Supernet at uniform bit-widths", body)


def _wrong(collapsed: list[str], stale: list[str]) -> str:
    parts = [f"step sizes below a hundredth of their start: {', '.join(collapsed)}"] if collapsed else []
    parts += [f"BatchNorm statistics that were never updated: {', '.join(stale)}"] if stale else []
    text = "; ".join(parts) or "no step size collapsed, and all BatchNorm statistics were updated"
    return f"{text[0].upper()}{text[1:]}."


def _training(run: Run, figures: Figures) -> Section:
    caption = "Accuracy of each exit on the search split; of the supernet, the largest path (solid) and the smallest."
    return Section("training", "Training", _figure(figures, "training", caption))


def _stages(run: Run, figures: Figures) -> Section:
    frame = stage_table(run)
    total = pd.DataFrame([{"stage": "all", "status": "", "seconds": frame["seconds"].sum()}])
    return Section("stages", "How long it took", table(pd.concat([frame, total]), total=True))


def _settings(run: Run, figures: Figures) -> Section:
    chain = run.space.chain
    calls = ", ".join(f"{name} × {count}" for name, count in sorted(chain.not_counted.items())) or "nothing"
    space = flatten(run.space.spec.model_dump(mode="json", exclude_defaults=True))
    body = (
        paragraph(f"Not counted in MACs and BOPs: {calls}. Counted are convolutions and linear layers.")
        + "<h3>Made with</h3>"
        + definitions([*flatten(run.study.get("provenance") or {}), ("search engine", run.engine_text)])
        + _details("Search space", definitions(space))
        + _details("Study, all settings", definitions(flatten(run.config.model_dump(mode="json"))))
    )
    return Section("settings", "Settings, versions, what was not counted", body)


SECTIONS: tuple[Callable[[Run, Figures], Section], ...] = (
    _front,
    _bits,
    _exits,
    _calibration,
    _trade_offs,
    _protocols,
    _gap,
    _matters,
    _history,
    _ladder,
    _training,
    _stages,
    _settings,
)
"""The functions that build the sections, in the order of the page."""
