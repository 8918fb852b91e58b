"""Writes ``trials.csv``, ``front.csv`` and ``seconds.csv``, which are derived from the study's trials."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from usdn_nas._util.files import write_text
from usdn_nas.space.architecture import Bits
from usdn_nas.space.cost import reference_bops
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.parameters import bits_of, indices_of
from usdn_nas.study.points import FrontPoint, front_points

__all__ = ["front_rows", "trial_rows", "write_tables"]


def _bits_columns(space: SearchSpace, bits: Mapping[str, Bits] | None) -> dict[str, str]:
    return {group.name: "{}/{}".format(*bits[group.name]) if bits else "" for group in space.groups}


def front_rows(points: Iterable[FrontPoint], space: SearchSpace) -> list[dict[str, Any]]:
    """Returns one row for each point.

    Keys: ``trial`` (``"trial.policy"``), ``accuracy``, ``bops`` (average bit operations of a sample),
    ``relative_bops``, ``exits`` (joined by ``+``), ``thresholds`` (a JSON list), and the name of each group with its
    bits (``"W/A"``).
    """
    reference = reference_bops(space)
    return [
        {
            "trial": point.name,
            "accuracy": point.accuracy,
            "bops": point.bops,
            "relative_bops": point.bops / reference,
            "exits": "+".join(point.exits),
            "thresholds": json.dumps(list(point.thresholds)),
            **_bits_columns(space, point.bits),
        }
        for point in points
    ]


def _front_cell(front: Iterable[Sequence[float]]) -> str:
    return json.dumps([policy[:2] for policy in front], separators=(",", ":"))


def trial_rows(study: optuna.Study, space: SearchSpace) -> list[dict[str, Any]]:
    """Returns one row for each trial. An unfinished trial has empty fields. No field depends on a clock.

    Keys: ``trial`` (its number), ``state``, the name of each group with its bits (``"W/A"``), ``accuracy`` and ``bops``
    (average bit operations of a sample) of the policy that stands for the trial, the other objectives by name,
    ``front_size``, and ``front`` (the trial's own front as a JSON list of [accuracy, bops]).
    """
    named = [objective["name"] for objective in study.user_attrs.get("objectives", [])]
    rows = []
    for trial in study.get_trials(deepcopy=False):
        known = indices_of(space, trial.params) is not None
        attributes = trial.user_attrs
        values = dict(zip(named, trial.values or [""] * len(named), strict=True))
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                **_bits_columns(space, bits_of(space, trial.params) if known else None),
                "accuracy": attributes.get("accuracy", ""),
                "bops": attributes.get("bops", ""),
                **{name: value for name, value in values.items() if name not in ("accuracy", "bops")},
                "front_size": len(attributes["front"]) if "front" in attributes else "",
                "front": _front_cell(attributes["front"]) if "front" in attributes else "",
            }
        )
    return rows


def _write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_tables(study: optuna.Study, space: SearchSpace, folder: Path) -> None:
    """Writes ``front.csv``, ``trials.csv`` and ``seconds.csv`` into ``folder``, each atomically.

    ``seconds.csv`` has the seconds that the evaluation of each complete trial took. They differ from run to run, so
    they have a file of their own.
    """
    groups = [group.name for group in space.groups]
    named = [objective["name"] for objective in study.user_attrs.get("objectives", [])]
    others = [name for name in named if name not in ("accuracy", "bops")]
    front = ["trial", "accuracy", "bops", "relative_bops", "exits", "thresholds", *groups]
    trials = ["trial", "state", *groups, "accuracy", "bops", *others, "front_size", "front"]
    _write_csv(folder / "front.csv", front, front_rows(front_points(study, space), space))
    _write_csv(folder / "trials.csv", trials, trial_rows(study, space))
    taken = [
        {"trial": trial.number, "seconds": trial.user_attrs["seconds"]}
        for trial in study.get_trials(deepcopy=False)
        if "seconds" in trial.user_attrs
    ]
    _write_csv(folder / "seconds.csv", ["trial", "seconds"], taken)
