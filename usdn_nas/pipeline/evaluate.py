"""The last stages: the test split, read once; figures and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from usdn_nas.cost import exit_costs, reference_bops
from usdn_nas.evaluation.outputs import run
from usdn_nas.evaluation.summary import model_summary, relative_changes
from usdn_nas.export.document import ArchitectureFile, read_architecture
from usdn_nas.files import write_json
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.search import load_retrained
from usdn_nas.pipeline.train import load_teacher
from usdn_nas.quant.supernet import materialize

__all__ = ["evaluate", "write_all_figures"]

SCHEMA = "usdn-nas/evaluation/1"


def evaluate(context: Context, file: ArchitectureFile, folder: Path, path: Path) -> None:
    """Runs every trained network of an architecture over the test split (and the search split, for the gap).

    Args:
        folder: Where the architecture's retrained networks lie.
        path: The file to write.
    """
    space, architecture = context.space, file.architecture
    retrained = {
        name: read_architecture(folder / name / "architecture.json", within=space).architecture
        for name in ("kd", "ce")
        if (folder / name / "architecture.json").exists() and (name == "kd" or context.study.retrain.compare_ce)
    }
    models: dict[str, tuple[str, str, MultiExitNetwork, tuple[float, ...]]] = {}
    labels = {"kd": "retrained with KD", "ce": "retrained with CE alone"}
    for name, refitted in retrained.items():
        network = load_retrained(context, file, folder / name)
        models[name] = (labels[name], "quantized", network, refitted.thresholds)
    inherited = context.to_device(materialize(context.supernet(), architecture))
    models["supernet"] = ("inherited from the supernet", "quantized", inherited, architecture.thresholds)
    teacher = load_teacher(context, architecture, folder / "teacher")
    pretrained = context.pretrained()
    labels = {"teacher": "full-precision teacher", "pretrained": "full-precision supernet, all candidate exits"}
    for name, network in (("teacher", teacher), ("pretrained", pretrained)):
        # Thresholds above 1: nothing leaves early, so that the policy is the final exit.
        never = (1.0 + 1e-6,) * (len(network.exit_names) - 1)
        models[name] = (f"{labels[name]}, no early exit", "full", network, never)
    summaries: dict[str, Any] = {}
    with context.reporter.task("evaluate", 2 * len(models)) as task:
        for name, (label, precision, network, thresholds) in models.items():
            test = run(network, context.test_batches, network.exit_names)
            task.advance(name)
            search = run(network, context.search_batches, network.exit_names)
            task.advance(name)
            costs = exit_costs(space, architecture.bits if precision == "quantized" else None)
            summaries[name] = model_summary(
                label,
                test,
                search,
                costs.placed(network.exit_names),
                thresholds,
                precision=precision,
                # At full precision nothing leaves early and the final exit answers.
                rule=architecture.rule if precision == "quantized" else "threshold",
                reference_bops=reference_bops(space),
                bins=context.study.evaluate.bins,
                sweep=context.study.evaluate.sweep,
            )
    write_json(
        path,
        {
            "schema": SCHEMA,
            "split": "test",
            "n": len(context.data.test),
            "search_n": len(context.data.search),
            "architecture_digest": architecture.digest,
            "rule": architecture.rule,
            "reference_bops": reference_bops(space),
            "models": summaries,
            "table2": relative_changes(summaries["ce"], summaries["kd"]) if "ce" in summaries else [],
            "provenance": context.provenance(),
        },
    )


def write_all_figures(context: Context) -> None:
    """Every figure that the run has data for, and ``report.html``."""
    from usdn_nas.report import draw_figures, load_run, write_figures, write_report

    finished = load_run(context.folder)
    with context.reporter.task("report", 3) as task:
        drawn = draw_figures(finished)
        task.advance("drawn")
        write_figures(finished, context.folder / "figures", drawn=drawn)
        task.advance("figures")
        write_report(finished, context.folder / "report.html", drawn=drawn)
        task.advance("report.html")
