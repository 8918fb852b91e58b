"""The stages between supernet and retraining: the study, the choice of a point, thresholds refitted to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usdn_nas.architecture import Architecture
from usdn_nas.cost import exit_costs, reference_bops
from usdn_nas.evaluation.outputs import SupernetEvaluator, run
from usdn_nas.evaluation.summary import policy_metrics
from usdn_nas.export.document import ArchitectureFile, Objective, write_architecture
from usdn_nas.networks.chain import MultiExitNetwork
from usdn_nas.networks.weights import load_weights
from usdn_nas.pipeline.context import Context
from usdn_nas.policy.apply import PolicyResult, apply
from usdn_nas.policy.outputs import ExitOutputs
from usdn_nas.policy.thresholds import fit_thresholds
from usdn_nas.quant.supernet import Supernet, materialize
from usdn_nas.study import FrontPoint, find_point, front_points, open_study, run_search, select, write_tables

__all__ = ["export", "export_front", "objective_of", "open_search", "refit", "search", "selection_metrics"]


def open_search(context: Context, inputs: dict[str, Any] | None = None) -> Any:
    """The run's Optuna study; with ``inputs`` a worker whose settings differ is refused."""
    settings = context.study.search
    fingerprint = None if inputs is None else {key: value for key, value in inputs.items() if isinstance(value, str)}
    return open_study(
        context.space,
        settings,
        seed=context.study.seed,
        storage_path=context.folder / "search" / "study.journal",
        fingerprint=fingerprint or {},
        name=settings.study_name or context.name,
    )


def search(context: Context, inputs: dict[str, Any]) -> None:
    """Runs the study up to its number of configurations and writes its tables."""
    settings = context.study.search
    study = open_search(context, inputs)
    evaluator = SupernetEvaluator(context.supernet(), context.search_batches)
    run_search(study, context.space, settings, evaluator, seed=context.study.seed, reporter=context.reporter)
    write_tables(study, context.space, context.folder / "search")


def selection_metrics(result: PolicyResult, names: Sequence[str], reference: int, n: int) -> dict[str, Any]:
    """``metrics`` of an architecture file: figures on the search split, on which it was selected."""
    return {
        "split": "search",
        "selected_on_this_split": True,
        **policy_metrics(result, reference, n),
        "exit_rates": dict(zip(names, result.exit_rates.tolist(), strict=True)),
    }


def _objective(context: Context, point: FrontPoint, tr: float | None, budget: float | None, trial: str | None) -> Objective:
    """What the choice maximised; a point picked by its name stands for its own cost as budget."""
    settings = context.study.search
    if trial is not None:
        return Objective(mode="budget", budget_bops=point.policy.bops)
    if budget is not None:
        return Objective(mode="budget", budget_bops=budget * 1e9)
    if tr is None and settings.mode == "budget":
        assert settings.gbops is not None
        return Objective(mode="budget", budget_bops=settings.gbops * 1e9)
    return Objective(mode="tr", tr=settings.tr if tr is None else tr)


def _choose(context: Context, *, best: bool, tr: float | None, budget: float | None, trial: str | None) -> FrontPoint:
    study, space, settings = open_search(context), context.space, context.study.search
    if trial is not None:
        return find_point(study, space, trial)
    if best:
        tr = settings.tr if settings.mode != "budget" else None
        budget = settings.gbops if settings.mode == "budget" else None
    return select(
        front_points(study, space),
        tr=tr,
        budget_bops=None if budget is None else budget * 1e9,
        reference_bops=reference_bops(space),
    )


def _write(context: Context, path: Path, point: FrontPoint, objective: Objective, outputs: ExitOutputs) -> None:
    architecture = Architecture(point.bits, point.policy.exits, point.policy.thresholds)
    costs = exit_costs(context.space, architecture.bits).placed(architecture.exits)
    placed = outputs.placed(architecture.exits)
    result = apply(placed, costs, architecture.thresholds)
    write_architecture(
        path,
        context.space,
        architecture,
        objective=objective,
        metrics=selection_metrics(result, placed.names, reference_bops(context.space), placed.samples),
        source={"trial": point.name, "study": context.name},
        provenance=context.provenance(),
    )


def export(
    context: Context,
    path: Path,
    *,
    best: bool = False,
    tr: float | None = None,
    budget: float | None = None,
    trial: str | None = None,
) -> None:
    """Writes one point of the front as ``architecture.json``.

    Args:
        best: By the study's own objective (``pareto``: by its ``tr``).
        tr: The best accuracy - ``tr`` x relative BOPs.
        budget: The most accurate with at most that many GBOPs.
        trial: By name, ``"12"`` or ``"12.3"``.

    Raises:
        UserError: Nothing fits.
    """
    point = _choose(context, best=best, tr=tr, budget=budget, trial=trial)
    evaluator = SupernetEvaluator(context.supernet(), context.search_batches)
    _write(context, path, point, _objective(context, point, tr, budget, trial), evaluator(point.bits))


def export_front(context: Context, folder: Path) -> list[Path]:
    """Writes every point of the front as ``<trial.policy>.json``; returns the files."""
    evaluator = SupernetEvaluator(context.supernet(), context.search_batches)
    paths = []
    for point in front_points(open_search(context), context.space):
        paths.append(folder / f"{point.name}.json")
        objective = Objective(mode="budget", budget_bops=point.policy.bops)
        _write(context, paths[-1], point, objective, evaluator(point.bits))
    return paths


def objective_of(context: Context, file: ArchitectureFile) -> Objective:
    """The objective that a file stores; a handwritten file without one: the study's ``tr``."""
    return file.objective or Objective(mode="tr", tr=context.study.search.tr)


def load_retrained(context: Context, file: ArchitectureFile, folder: Path) -> MultiExitNetwork:
    """The standalone network with the weights of ``folder``."""
    network = materialize(Supernet(context.fresh_network(), context.space), file.architecture)
    load_weights(network, folder / "weights.safetensors")
    return context.to_device(network)


def refit(context: Context, file: ArchitectureFile, objective: Objective, folder: Path) -> None:
    """Refits the thresholds of a retrained network on the search split; writes its own ``architecture.json``."""
    network = load_retrained(context, file, folder)
    outputs = run(network, context.search_batches, network.exit_names)
    costs = exit_costs(context.space, file.architecture.bits).placed(file.architecture.exits)
    reference = reference_bops(context.space)
    thresholds = fit_thresholds(
        outputs, costs, tr=objective.tr, budget_bops=objective.budget_bops, reference_bops=reference
    )
    architecture = file.architecture.with_thresholds(thresholds)
    result = apply(outputs, costs, architecture.thresholds)
    write_architecture(
        folder / "architecture.json",
        context.space,
        architecture,
        objective=objective,
        metrics=selection_metrics(result, outputs.names, reference, outputs.samples),
        source={"retrained": file.architecture.digest, **(file.source or {})},
        provenance=context.provenance(),
    )
