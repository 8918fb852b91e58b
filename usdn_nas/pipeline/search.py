"""The stages after the search: a point of the front is chosen and exported, and its thresholds are refitted later."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from usdn_nas._util.errors import UserError
from usdn_nas._util.files import read_json
from usdn_nas.config import ExportConfig
from usdn_nas.engine.outputs import SupernetEvaluator, run
from usdn_nas.exits.apply import PolicyResult, apply
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.exits.summary import policy_metrics
from usdn_nas.exits.thresholds import fit_thresholds
from usdn_nas.export.document import SCHEMA, ArchitectureFile, Objective, write_architecture
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.networks.weights import load_weights
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.study import read
from usdn_nas.quant.supernet import Supernet, extract_chain
from usdn_nas.space.cost import exit_costs, reference_bops
from usdn_nas.study.points import FrontPoint, best_point, find_point, front_points, select, smoothed_front
from usdn_nas.study.session import engine_of

__all__ = ["check_target", "choose", "export", "export_front", "load_retrained", "objective_of", "refit"]


def selection_metrics(result: PolicyResult, names: Sequence[str], reference: int, n: int) -> dict[str, Any]:
    """Returns ``metrics`` for an architecture file: figures on the search split, on which it was selected."""
    return {
        "split": "search",
        "selected_on_this_split": True,
        **policy_metrics(result, reference, n),
        "exit_rates": dict(zip(names, result.exit_rates.tolist(), strict=True)),
    }


def _objective(context: Context, point: FrontPoint, pick: ExportConfig) -> Objective:
    """Returns the objective by which the point was chosen. For a point chosen by name, its own cost is the budget."""
    settings = context.study.search
    if pick.trial is not None:
        return Objective(mode="budget", budget_bops=point.bops)
    if pick.budget is not None:
        return Objective(mode="budget", budget_bops=pick.budget * 1e9)
    if pick.tr is None and settings.mode == "budget":
        assert settings.gbops is not None
        return Objective(mode="budget", budget_bops=settings.gbops * 1e9)
    return Objective(mode="tr", tr=settings.tr if pick.tr is None else pick.tr)


def choose(context: Context, pick: ExportConfig) -> FrontPoint:
    """Returns the point that `export` would write. Its accuracy is the measured or the smoothed one (``pick.score``).

    Raises:
        UserError: No point fits.
    """
    study, space, reference = read(context, patient=True), context.space, reference_bops(context.space)
    if pick.trial is not None:
        return find_point(study, space, pick.trial)
    smoothed = pick.score == "smoothed"
    points = smoothed_front(study, space, reference) if smoothed else front_points(study, space)
    if pick.budget is not None:
        return select(points, budget_bops=pick.budget * 1e9)
    if pick.tr is not None:
        return select(points, tr=pick.tr, reference_bops=reference)
    return best_point(points, context.study.search, reference)


def _write(
    context: Context,
    path: Path,
    point: FrontPoint,
    objective: Objective,
    outputs: ExitOutputs,
    engine: Mapping[str, Any],
    chosen_by: Mapping[str, str] | None = None,
) -> None:
    architecture = point.architecture
    costs = exit_costs(context.space, architecture.bits).placed(architecture.exits)
    placed = outputs.placed(architecture.exits)
    result = apply(placed, costs, architecture.thresholds, architecture.rule)
    write_architecture(
        path,
        context.space,
        architecture,
        objective=objective,
        metrics=selection_metrics(result, placed.names, reference_bops(context.space), placed.samples),
        source={"trial": point.name, "study": context.name, "engine": engine, **(chosen_by or {})},
        provenance=context.provenance(),
        data=context.data_summary(),
    )


def export(context: Context, path: Path, pick: ExportConfig) -> None:
    """Writes the point that ``pick`` selects to ``path``, as an ``architecture.json``.

    Raises:
        UserError: No point fits.
    """
    point, chosen_by = choose(context, pick), {}
    if pick.score == "smoothed":
        chosen_by = {"score": pick.score}
        measured = find_point(read(context, patient=True), context.space, point.name).accuracy
        context.reporter.say(f"export: {point.name}, accuracy {point.accuracy:.4f} smoothed, {measured:.4f} measured")
    evaluator = SupernetEvaluator(context.supernet(), context.search_batches)
    engine = engine_of(read(context, patient=True))
    _write(context, path, point, _objective(context, point, pick), evaluator(point.bits), engine, chosen_by)


def export_front(context: Context, folder: Path) -> list[Path]:
    """Writes every point of the front to ``<trial.policy>.json`` and returns the paths.

    Raises:
        UserError: A file with one of these names exists and is not an architecture. Nothing is written then.
    """
    study = read(context, patient=True)
    points = {folder / f"{point.name}.json": point for point in front_points(study, context.space)}
    for path in points:
        check_target(path)
    evaluator = SupernetEvaluator(context.supernet(), context.search_batches)
    for path, point in points.items():
        objective = Objective(mode="budget", budget_bops=point.bops)
        _write(context, path, point, objective, evaluator(point.bits), engine_of(study))
    return list(points)


def check_target(path: Path) -> None:
    """Refuses to write an architecture over a file of another kind.

    Raises:
        UserError: ``path`` exists and is not an architecture file.
    """
    if os.path.lexists(path):
        try:
            read_json(path, SCHEMA)
        except UserError:
            raise UserError(
                "is there already and is no architecture file", where=path, remedy="move it away, or give another name"
            ) from None


def objective_of(context: Context, file: ArchitectureFile) -> Objective:
    """Returns the objective stored in a file; if a handwritten file has none, that of the study's ``tr``."""
    return file.objective or Objective(mode="tr", tr=context.study.search.tr)


def load_retrained(context: Context, file: ArchitectureFile, folder: Path) -> MultiExitNetwork:
    """Returns the architecture's standalone network with the weights in ``folder``."""
    network = extract_chain(Supernet(context.fresh_network(), context.space), file.architecture)
    load_weights(network, folder / "weights.safetensors")
    return context.to_device(network)


def refit(context: Context, file: ArchitectureFile, objective: Objective, folder: Path) -> None:
    """Refits the thresholds of a retrained network on the search split and writes them to its ``architecture.json``."""
    network = load_retrained(context, file, folder)
    outputs = run(network, context.search_batches, network.exit_names)
    costs = exit_costs(context.space, file.architecture.bits).placed(file.architecture.exits)
    reference = reference_bops(context.space)
    fitted = fit_thresholds(
        outputs, costs, tr=objective.tr, budget_bops=objective.budget_bops, reference_bops=reference,
        rule=file.architecture.rule,
    )  # fmt: skip
    if fitted.thresholds:
        context.reporter.say(f"thresholds of {folder.name}: {fitted.method}")
    architecture = file.architecture.with_thresholds(fitted.thresholds)
    result = apply(outputs, costs, architecture.thresholds, architecture.rule)
    write_architecture(
        folder / "architecture.json",
        context.space,
        architecture,
        objective=objective,
        metrics={
            **selection_metrics(result, outputs.names, reference, outputs.samples),
            "thresholds_exact": fitted.exact,
            "thresholds_fitted": fitted.method,
        },
        source={"retrained": file.architecture.digest, **(file.source or {})},
        provenance=context.provenance(),
        data=context.data_summary(),
    )
