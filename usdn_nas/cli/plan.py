"""``--dry-run``: shows all settings in force and the work that they mean, and does nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from usdn_nas.cli.common import stdout

if TYPE_CHECKING:
    from usdn_nas.config import StudyConfig, TrainConfig
    from usdn_nas.pipeline.context import Context
    from usdn_nas.space.search_space import SearchSpace

__all__ = ["show_plan"]

_ORDER = ("pretrain", "supernet", "search", "export", "retrain", "evaluate", "report")


def show_plan(context: Context, until: str = "report") -> None:
    """Prints the settings of the study and of its search space, then the planned work of the stages up to ``until``.

    Only the shapes of the network are computed, so that this is quick. No data are needed.
    """
    from usdn_nas.networks.empty import resolve_shapes
    from usdn_nas.report.fitting import FittedTable

    settings = {"study": context.name, "folder": str(context.folder), **context.study.model_dump(mode="json")}
    settings["search_space"] = context.spec.model_dump(mode="json")
    stdout().print_json(json.dumps(settings))
    table = FittedTable("Planned work", prose=True)
    table.add("stage")
    table.add("work")
    for stage, work in _work(context.study, resolve_shapes(context.spec)):
        if _ORDER.index(stage) <= _ORDER.index(until):
            table.add_row(stage, work)
    stdout().print(table)


def _work(study: StudyConfig, space: SearchSpace) -> Iterator[tuple[str, str]]:
    """Stage and work, a line each."""
    paths = f", {1 + study.supernet.smallest + study.supernet.random_paths} configurations a step"
    yield "pretrain", _training(study.supernet.pretrain)
    yield "supernet", _training(study.supernet.qat) + paths
    yield "search", _search(study, space)
    yield "retrain", f"teacher: {_training(study.retrain.teacher)}"
    yield "retrain", f"KD: {_training(study.retrain.train)}"
    if study.retrain.compare_ce:
        yield "retrain", f"CE alone: {_training(study.retrain.train)}"


def _training(settings: TrainConfig) -> str:
    limit = f", at most {settings.max_steps} steps" if settings.max_steps else ""
    return f"{settings.epochs} epochs, batches of {settings.batch_size}{limit}"


def _search(study: StudyConfig, space: SearchSpace) -> str:
    from usdn_nas.study.session import planned

    sampler, trials = planned(space, study.search)
    trials_of = "of" if study.search.exits != "sampled" else "trials over"
    exits = len(space.candidates)
    placements = f"with the placements of {exits} exits {space.size:,} points, before thresholds"
    if study.search.exits == "all":
        placements = f"all {exits} exits are placed"
    return f"{sampler}: {trials:,} {trials_of} {space.bit_configurations:,} bit configurations; {placements}"
