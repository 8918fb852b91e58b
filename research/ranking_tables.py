"""What the records of `ranking.py` say: coefficients with intervals and ceilings, as a dictionary and as tables."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from agreement import Coefficient, Floats, ceiling, interval, resamples, rho, tau, winner_loss
from numpy.typing import NDArray
from retraining import BANDS, RANGE, STRATA
from rich.console import Console
from rich.table import Table

from usdn_nas.study.smoothing import smoothed

__all__ = ["judge", "show"]

COEFFICIENTS = {"tau": tau, "rho": rho}
OBJECTIVES = {"accuracy": "last exit", "value": "early exits"}
BOOTSTRAPS = 2000


class _Sample:
    """Configurations with the retrainings of all seeds that are complete.

    Attributes:
        names: n names.
        strata: (n,) numbers of their strata in `STRATA`.
        pairs: Scope -> indices of its configurations, and their strata for `agreement`'s coefficients.
    """

    def __init__(self, results: dict[str, Any]) -> None:
        self.names = list(results["configurations"])
        done = results["retrained"]
        seeds = sorted({int(key.rpartition(" ")[2]) for key in done})
        self.seeds = [s for s in seeds if all(f"{name}, seed {s}" in done for name in self.names)]
        self._done = done
        self.strata = np.array([STRATA.index(name.rpartition("-")[0]) for name in self.names])
        banded = np.flatnonzero(self.strata != STRATA.index(RANGE))
        everything = np.arange(len(self.names))
        self.pairs = {
            "within bands": (banded, self.strata[banded]),
            "overall": (everything, np.zeros_like(everything)),
        }

        bits = [list(map(tuple, results["configurations"][name]["bits"].values())) for name in self.names]
        self._choices = [sorted(set(column)) for column in zip(*bits, strict=True)]
        self._codes = self._ranks(bits)

    def _ranks(self, bits: Sequence[Sequence[tuple[int, ...]]]) -> NDArray[np.int64]:
        """(n, P)."""
        return np.array(
            [[choices.index(pair) for choices, pair in zip(self._choices, one, strict=True)] for one in bits]
        )

    def smoothed(self, record: dict[str, Any], objective: str) -> Floats:
        """(n,) scores smoothed over all configurations that the supernet evaluated."""
        codes, values = self._codes, self.inherited(record, objective)
        if others := record.get("searched"):
            bits = [[tuple(map(int, pair.split("/"))) for pair in one.split()] for one in others["bits"]]
            codes = np.concatenate([codes, self._ranks(bits)])
            values = np.concatenate([values, others[objective]])
        return smoothed(codes, values[:, None])[: len(self.names), 0]

    def retrained(self, objective: str) -> Floats:
        """(n, S)."""
        return np.array(
            [[_score(self._done[f"{name}, seed {s}"], objective) for s in self.seeds] for name in self.names]
        )

    def inherited(self, record: dict[str, Any], objective: str) -> Floats:
        """(n,)."""
        return np.array(
            [
                _score({key: record[key][name] for key in ("accuracy", "value")}, objective)
                for name in self.names
            ]
        )  # fmt: skip


def _score(record: dict[str, Any], objective: str) -> float:
    return float(record["accuracy"][-1] if objective == "accuracy" else record["value"])


def judge(results: dict[str, Any], against: str) -> dict[str, Any]:
    """Every supernet recorded, its repeats together: coefficients are means over them.

    Beside them those of scores ``smoothed`` over all configurations, and of the mean of what all repeats give
    (``of_mean``).

    Args:
        results: The file of `Retrainings`.
        against: Name of the supernet that the others are compared with, on the same bootstrap samples.
    """
    sample = _Sample(results)
    judged: dict[str, Any] = {
        "seeds": len(sample.seeds),
        "retrained": _of_retraining(sample, results) if sample.seeds else None,
        "alone": {name: {"ladder": one["accuracy"]} for name, one in results.get("alone", {}).items()},
        "supernets": {},
    }
    if not sample.seeds:
        return judged
    draws: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, repeats in results.get("supernets", {}).items():
        records = list(repeats.values())
        judged["supernets"][name], draws[name] = _supernet(sample, records)
        judged["supernets"][name]["to_alone"] = _to_alone(judged["supernets"][name]["ladder"], records, results)
    for name, row in judged["supernets"].items():
        if name != against and against in draws:
            for key, cell in row["coefficients"].items():
                cell["difference"] = cell["mean"] - judged["supernets"][against]["coefficients"][key]["mean"]
                cell["difference_interval"] = interval(draws[name][key] - draws[against][key])
    return judged


def _supernet(sample: _Sample, records: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    cells: dict[str, Any] = {}
    draws = {}
    for objective in OBJECTIVES:
        retrained = sample.retrained(objective)
        target = retrained.mean(axis=1)
        scores = [sample.inherited(record, objective) for record in records]
        smooth = [sample.smoothed(record, objective) for record in records]
        noise = np.array([np.mean([record["noise"][objective][s] for record in records]) for s in STRATA])
        for scope, (index, strata) in sample.pairs.items():
            for coefficient, function in COEFFICIENTS.items():
                key = f"{objective}, {scope}, {coefficient}"
                orders = functools.partial(_orders, function, target[index], strata, sample.strata[index])
                cells[key], draws[key] = orders([score[index] for score in scores])
                cells[key]["smoothed"], _ = orders([score[index] for score in smooth])
                cells[key]["of_mean"] = function(np.mean(scores, axis=0)[index], target[index], strata)
                if len(sample.seeds) > 1:
                    cells[key] |= _ceilings(retrained[index], sample.strata[index], strata, function, noise)
    row: dict[str, Any] = {"repeats": len(records), "coefficients": cells, "ladder": _ladder(records)}
    if len(sample.seeds) > 1:
        row["winner_loss"] = _winners(sample, records)
    return row, draws


def _orders(
    function: Coefficient,
    target: Floats,
    pairs: NDArray[np.int64],
    strata: NDArray[np.int64],
    scores: Sequence[Floats],
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Coefficients of R scores (n,) with ``target``, their mean and its interval; and the mean's bootstrap draws."""
    values = [function(score, target, pairs) for score in scores]
    draws = np.array(
        [np.mean([function(score[b], target[b], pairs[b]) for score in scores]) for b in resamples(strata, BOOTSTRAPS)]
    )
    return {"mean": float(np.mean(values)), "repeats": values, "interval": interval(draws)}, draws


def _ceilings(
    retrained: Floats, strata: NDArray[np.int64], pairs: NDArray[np.int64], function: Coefficient, noise: Floats
) -> dict[str, Any]:
    """Of a score without noise, and of one with an evaluation noise that the retrained networks do not share."""
    top = ceiling(retrained, strata, function, pairs=pairs)
    noisy = ceiling(retrained, strata, function, noise=noise[strata], pairs=pairs)
    return {"ceiling": top.mean, "ceiling_interval": (top.low, top.high), "ceiling_with_own_noise": noisy.mean}


def _winners(sample: _Sample, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Objective -> band -> mean over held-out seeds and repeats, and each."""
    found: dict[str, Any] = {}
    for objective in OBJECTIVES:
        retrained = sample.retrained(objective)
        found[objective] = {}
        for band in BANDS:
            here = sample.strata == STRATA.index(band)
            losses = [winner_loss(sample.inherited(record, objective)[here], retrained[here]) for record in records]
            found[objective][band] = {"mean": float(np.mean(losses)), "repeats": losses}
    return found


def _ladder(records: list[dict[str, Any]]) -> dict[str, float]:
    """Uniform bits -> accuracy of the last exit, mean over repeats."""
    rows = [{"/".join(map(str, row["bits"])): row["accuracy"] for row in record["ladder"]} for record in records]
    return {bits: float(np.mean([row[bits] for row in rows])) for bits in rows[0]}


def _to_alone(ladder: dict[str, float], records: list[dict[str, Any]], results: dict[str, Any]) -> dict[str, float]:
    """Uniform bits -> accuracy less that of the same trained alone with the same settings; empty where none was."""
    for one in results.get("alone", {}).values():
        if one["settings"] == records[0]["settings"]["qat"] and set(one["accuracy"]) == set(ladder):
            return {bits: value - one["accuracy"][bits] for bits, value in ladder.items()}
    return {}


def _of_retraining(sample: _Sample, results: dict[str, Any]) -> dict[str, Any]:
    """Spread of the retrainings, and how well one retraining of each orders the means of the others."""
    found: dict[str, Any] = {}
    for objective in OBJECTIVES:
        values = sample.retrained(objective)
        found[objective] = {"strata": {}}
        for number, stratum in enumerate(STRATA):
            here = values[sample.strata == number]
            within = float(here.var(axis=1, ddof=1).mean()) if len(sample.seeds) > 1 else None
            found[objective]["strata"][stratum] = {
                "mean": float(here.mean()),
                "deviation_of_configurations": float(here.mean(axis=1).std(ddof=1)),
                "deviation_of_seeds": None if within is None else within**0.5,
            }
        for scope, (index, strata) in sample.pairs.items():
            for coefficient, function in COEFFICIENTS.items():
                if len(sample.seeds) > 1:
                    found[objective][f"one against the others, {scope}, {coefficient}"] = float(
                        np.mean(
                            [
                                function(values[index, s], np.delete(values, s, axis=1)[index].mean(axis=1), strata)
                                for s in range(len(sample.seeds))
                            ]
                        )
                    )
    return found


def _range(cell: dict[str, Any], key: str = "interval") -> str:
    return f"[{cell[key][0]:.2f}, {cell[key][1]:.2f}]"


def show(judged: dict[str, Any]) -> None:
    """Prints the tables."""
    console = Console(width=170)
    if judged["retrained"] is None:
        console.print("no seed is complete yet")
        return
    console.print(f"{judged['seeds']} seeds of every configuration retrained")
    spread = Table("", *STRATA, title="retrained (%): mean; deviation of configurations' means; deviation of seeds")
    for objective, title in OBJECTIVES.items():
        cells = judged["retrained"][objective]["strata"].values()
        spread.add_row(title, *["; ".join(f"{100 * v:.2f}" for v in cell.values() if v is not None) for cell in cells])
    console.print(spread)
    for objective, title in OBJECTIVES.items():
        table = Table("supernet (repeats)", title=f"inherited against retrained, {title}: value, 95% interval, ceiling")
        keys = [f"{scope}, {c}" for scope in ("within bands", "overall") for c in COEFFICIENTS]
        for key in keys:
            table.add_column(key)
        for name, row in judged["supernets"].items():
            table.add_row(
                f"{name} ({row['repeats']})", *[_cell(row["coefficients"][f"{objective}, {k}"]) for k in keys]
            )
        if judged["seeds"] > 1:
            one = judged["retrained"][objective]
            table.add_row("one retraining", *[f"{one[f'one against the others, {key}']:.3f}" for key in keys])
        console.print(table)
    _show_ladders(console, judged)


def _cell(cell: dict[str, Any]) -> str:
    text = f"{cell['mean']:.3f} {_range(cell)}"
    if "ceiling" in cell:
        text += f" of {cell['ceiling']:.3f} ({cell['mean'] / cell['ceiling']:.2f})"
    text += f"\nsmoothed {cell['smoothed']['mean']:.3f} {_range(cell['smoothed'])}"
    if "ceiling" in cell:
        text += f" ({cell['smoothed']['mean'] / cell['ceiling']:.2f})"
    if len(cell["repeats"]) > 1:
        text += f", mean of all {cell['of_mean']:.3f}"
    if "difference" in cell:
        text += f"\n{cell['difference']:+.3f} {_range(cell, 'difference_interval')}"
    return text


def _show_ladders(console: Console, judged: dict[str, Any]) -> None:
    """Accuracies; below those of a supernet, how far they are from the same trained alone, where that is recorded."""
    alone, rows = judged["alone"], judged["supernets"]
    ladders = [row["ladder"] for row in (*rows.values(), *alone.values())]
    if not ladders:
        return
    bits = list(ladders[0])
    table = Table("accuracy of uniform bits (%)", *bits, *[f"loss of the winner, {band}" for band in BANDS])
    for name, row in rows.items():
        losses = row.get("winner_loss", {}).get("accuracy", {})
        table.add_row(
            name,
            *[f"{100 * row['ladder'][b]:.2f}" + _beside_alone(row, b) for b in bits],
            *[f"{100 * losses[band]['mean']:+.2f}" if losses else "" for band in BANDS],
        )
    for name, row in alone.items():
        table.add_row(f"trained alone: {name}", *[f"{100 * row['ladder'][b]:.2f}" for b in bits])
    console.print(table)


def _beside_alone(row: dict[str, Any], bits: str) -> str:
    return f"\n{100 * row['to_alone'][bits]:+.2f}" if row["to_alone"] else ""
