"""The last stages: evaluation on the test split, which is read only here; figures and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from usdn_nas.documents import EvaluationDocument, write_document
from usdn_nas.engine.outputs import fit_temperatures, run_with_confusion
from usdn_nas.exits.protocols import budgeted_batches, overthinking_summary
from usdn_nas.exits.summary import Evaluated, model_summary, relative_changes
from usdn_nas.exits.thresholds import fit_thresholds
from usdn_nas.export.document import ArchitectureFile, read_architecture
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.search import load_retrained, objective_of
from usdn_nas.pipeline.train import load_teacher
from usdn_nas.quant.supernet import extract_chain
from usdn_nas.space.cost import exit_costs, layer_table, mean_bits, reference_bops

__all__ = ["evaluate", "write_all_figures"]

_LABELS = {
    "kd": "retrained with KD",
    "ce": "retrained with CE alone",
    "ce-temperature": "retrained with CE alone, a temperature for each exit",
    "supernet": "inherited from the supernet",
    "teacher": "full-precision teacher, no early exit",
    "pretrained": "full-precision supernet, all candidate exits, no early exit",
}
"""Descriptions of the models, in the order of the output. Models named ``ce...`` exist if the study asks for them."""


def evaluate(context: Context, file: ArchitectureFile, folder: Path, path: Path) -> None:
    """Runs every trained network of an architecture over the test split and, for comparison, over the search split.

    Args:
        context: The context of the run.
        file: The architecture.
        folder: Folder of the architecture's retrained networks.
        path: The file to write.
    """
    space, architecture = context.space, file.architecture
    names = [name for name in _LABELS if context.study.retrain.compare_ce or not name.startswith("ce")]
    summaries: dict[str, Any] = {}
    with context.reporter.task("evaluate", len(names)) as task:
        for name in names:
            summaries[name] = _summary(context, file, folder, name)
            task.advance(name)
    layers = layer_table(space, architecture)
    write_document(
        path,
        EvaluationDocument,
        {
            "split": "test",
            "n": len(context.data.test),
            "search_n": len(context.data.search),
            "architecture_digest": architecture.digest,
            "rule": architecture.rule,
            "reference_bops": reference_bops(space),
            "bits": {
                "searched": mean_bits([row for row in layers if row["group"] is not None] or layers),
                "all": mean_bits(layers),
            },
            "models": summaries,
            "table2": relative_changes(summaries["ce"], summaries["kd"]) if "ce" in summaries else [],
            "provenance": context.provenance(),
        },
    )


def _summary(context: Context, file: ArchitectureFile, folder: Path, name: str) -> dict[str, Any]:
    """Evaluates one model of `_LABELS` and returns its figures."""
    settings, reference = context.study.evaluate, reference_bops(context.space)
    network = _network(context, file, folder, name)
    full_precision = name in ("teacher", "pretrained")
    exits = network.exit_names
    temperatures = fit_temperatures(network, context.search_batches) if name == "ce-temperature" else None
    test, confusion = run_with_confusion(network, context.test_batches, exits, temperatures)
    search, search_confusion = run_with_confusion(network, context.search_batches, exits, temperatures)
    evaluated = Evaluated(
        test=test,
        search=search,
        costs=exit_costs(context.space, None if full_precision else file.architecture.bits).placed(exits),
        reference_bops=reference,
        # At full precision no sample leaves early, so the final exit answers.
        rule="threshold" if full_precision else file.architecture.rule,
    )
    if full_precision:
        thresholds: tuple[float, ...] = (1.0 + 1e-6,) * (len(exits) - 1)  # no sample leaves early
    elif name == "supernet":
        thresholds = file.architecture.thresholds
    elif name == "ce-temperature":
        objective = objective_of(context, file)
        thresholds = fit_thresholds(
            evaluated.search, evaluated.costs, tr=objective.tr, budget_bops=objective.budget_bops,
            reference_bops=reference, rule=file.architecture.rule,
        ).thresholds  # fmt: skip
    else:
        retrained = read_architecture(folder / name / "architecture.json", within=context.space)
        thresholds = retrained.architecture.thresholds
    summary = model_summary(
        _LABELS[name],
        evaluated,
        thresholds,
        precision="full" if full_precision else "quantized",
        bins=settings.bins,
        sweep=settings.sweep,
        fits=settings.fits if name in ("kd", "ce", "ce-temperature") else 0,
        threshold=settings.threshold,
        temperatures=temperatures,
    )
    # At full precision, early exits are not meant to be used.
    summary["budgeted"] = [] if full_precision else budgeted_batches(evaluated)
    summary["overthinking"] = None if full_precision else overthinking_summary(evaluated, confusion, search_confusion)
    return summary


def _network(context: Context, file: ArchitectureFile, folder: Path, name: str) -> MultiExitNetwork:
    if name == "supernet":
        return context.to_device(extract_chain(context.supernet(), file.architecture))
    if name == "teacher":
        return load_teacher(context, file.architecture, folder / "teacher")
    if name == "pretrained":
        return context.pretrained()
    return load_retrained(context, file, folder / ("kd" if name == "kd" else "ce"))


def write_all_figures(context: Context) -> None:
    """Writes every figure that the run has data for, and ``report.html``.

    Figures of an earlier report whose data is gone are deleted, because the folder ``figures`` belongs to the run.
    """
    from usdn_nas.report import draw_figures, load_run, write_figures, write_report
    from usdn_nas.report.figures.write import FIGURES, SUFFIXES

    finished = load_run(context.folder)
    with context.reporter.task("report", 3) as task:
        drawn = draw_figures(finished)
        task.advance("drawn")
        folder = context.folder / "figures"
        written = write_figures(finished, folder, drawn=drawn)
        for path in {folder / f"{name}{suffix}" for name in FIGURES for suffix in SUFFIXES} - set(written):
            path.unlink(missing_ok=True)
        task.advance("figures")
        write_report(finished, context.folder / "report.html", drawn=drawn)
        task.advance("report.html")
