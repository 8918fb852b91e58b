"""The tables of the paper and of a run, as DataFrames. Every number comes from a written file; none is estimated.

Units are in the columns' names; accuracies and errors are fractions; costs are decimal GBOPs (1e9).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from usdn_nas.architecture import Architecture
from usdn_nas.cost import layer_table
from usdn_nas.errors import UserError, nearest
from usdn_nas.report.run import Run
from usdn_nas.space import SearchSpace

__all__ = ["AVERAGE", "bits_table", "front_table", "gap_table", "ladder_table", "stage_table", "table1", "table2"]

AVERAGE = "average"
"""The ``exit`` of the last row of `table1`."""

_GIGA = 1e9
_METRICS = ("error", "ece", "mce")


def _model(evaluation: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    models = evaluation["models"]
    if model not in models:
        raise UserError(
            f"the evaluation has no model '{model}'", where="evaluation.json", remedy=nearest(model, models)
        )
    return dict(models[model])


def table1(evaluation: Mapping[str, Any], model: str = "kd") -> pd.DataFrame:
    """Table I: how many samples leave at each exit, and what that costs.

    Args:
        evaluation: The content of ``evaluation.json``.
        model: One of its models.

    Returns:
        One row an exit and a last one, `AVERAGE`. Columns: ``exit``, ``threshold``, ``exit_rate_percent``,
        ``cost_share_gbops`` (exit rate x cumulative cost: the paper's "Cost (G)", whose sum is the average),
        ``cumulative_gbops`` (cost of a sample that leaves there), ``accuracy_leaving`` (of those that leave there; in
        the last row the policy's accuracy).
    """
    content = _model(evaluation, model)
    rows = [
        {
            "exit": row["exit"],
            "threshold": row["threshold"],
            "exit_rate_percent": 100 * row["exit_rate"],
            "cost_share_gbops": row["cost_share_bops"] / _GIGA,
            "cumulative_gbops": row["cumulative_bops"] / _GIGA,
            "accuracy_leaving": row["accuracy_leaving"],
        }
        for row in content["exits"]
    ]
    rows.append(
        {
            "exit": AVERAGE,
            "exit_rate_percent": sum(row["exit_rate_percent"] for row in rows),
            "cost_share_gbops": sum(row["cost_share_gbops"] for row in rows),
            "accuracy_leaving": content["policy"]["accuracy"],
        }
    )
    frame = pd.DataFrame(rows)
    numbers = [column for column in frame.columns if column != "exit"]
    return frame.astype(dict.fromkeys(numbers, float))


def table2(evaluation: Mapping[str, Any]) -> pd.DataFrame:
    """Table II: error, ECE and MCE of each exit over all samples, with cross-entropy alone and with KD.

    Returns:
        One row for each exit and metric. Columns: ``exit``, ``metric`` (``error``, ``ece``, ``mce``), ``nonkd``,
        ``kd``, ``variance_percent`` (the paper's word for the relative change, 100 (kd - nonkd) / nonkd).

    Raises:
        UserError: The winner was not retrained with cross-entropy alone.
    """
    if not evaluation["table2"]:
        raise UserError(
            "no model trained with cross-entropy alone to compare with",
            where="evaluation.json: table2",
            remedy="set retrain.compare_ce = true",
        )
    frame = pd.DataFrame(evaluation["table2"]).rename(columns={"ce": "nonkd", "change_percent": "variance_percent"})
    columns = ["exit", "metric", "nonkd", "kd", "variance_percent"]
    return frame[columns].astype(dict.fromkeys(columns[2:], float))


def table2_wide(evaluation: Mapping[str, Any]) -> pd.DataFrame:
    """`table2` with one row an exit, and for each metric the columns ``<metric>_nonkd``, ``_kd``, ``_change``."""
    rows: dict[str, dict[str, Any]] = {}
    for row in table2(evaluation).to_dict("records"):
        wide = rows.setdefault(row["exit"], {"exit": row["exit"]})
        for key, value in (("nonkd", row["nonkd"]), ("kd", row["kd"]), ("change", row["variance_percent"])):
            wide[f"{row['metric']}_{key}"] = value
    return pd.DataFrame(list(rows.values()))


def gap_table(evaluation: Mapping[str, Any]) -> pd.DataFrame:
    """What the policies reach on the search split, where thresholds were fitted, and on the test split.

    Returns:
        One row a model that has a policy on both. Columns: ``model``, ``label``, ``search_accuracy``,
        ``test_accuracy``, ``gap_points`` (percentage points, test - search), ``search_gbops``, ``test_gbops``
        (averages), ``search_n``, ``n``.
    """
    rows = []
    for name, content in evaluation["models"].items():
        search, test = content.get("search_policy"), content.get("policy")
        if search and test:
            rows.append(
                {
                    "model": name,
                    "label": content["label"],
                    "search_accuracy": search["accuracy"],
                    "test_accuracy": test["accuracy"],
                    "gap_points": 100 * (test["accuracy"] - search["accuracy"]),
                    "search_gbops": search["average_bops"] / _GIGA,
                    "test_gbops": test["average_bops"] / _GIGA,
                    "search_n": search["n"],
                    "n": evaluation["n"],
                }
            )
    return pd.DataFrame(rows)


def front_table(front: pd.DataFrame, space: SearchSpace) -> pd.DataFrame:
    """A front as people read it: one column of bits for all groups, in the order of the chain.

    Args:
        front: As `Run.front` gives it.

    Returns:
        Columns: ``trial``, ``accuracy``, ``gbops``, ``bits`` (W/A a group, or one number where they are equal),
        ``threshold`` (float, NaN without exits) or, where a point has several, ``thresholds`` (text), and ``exits``.
        What all candidates' names begin with stands in that column's name: ``1.0`` under ``exits (layer…)``.
    """

    def bits(row: Mapping[str, Any]) -> str:
        pairs = [str(row[group.name]).split("/") for group in space.groups]
        return " ".join(w if w == a else f"{w}/{a}" for w, a in pairs)

    if all(len(set(values)) <= 1 for values in front["thresholds"]):
        leave = {"threshold": [values[0] if values else math.nan for values in front["thresholds"]]}
    else:
        leave = {"thresholds": [" ".join(f"{value:.3f}" for value in values) for values in front["thresholds"]]}
    prefix = _common_prefix(space.candidates)
    return pd.DataFrame(
        {
            "trial": front["trial"],
            "accuracy": front["accuracy"],
            "gbops": front["bops"] / _GIGA,
            "bits": [bits(row) for row in front.to_dict("records")],
            **leave,
            f"exits ({prefix}…)" if prefix else "exits": [
                " ".join(name.removeprefix(prefix) for name in exits) or None for exits in front["exits"]
            ],
        }
    )


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, numbers left whole: ``"layer"`` for ``layer1.0``, ``layer1.1``."""
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in same).rstrip("0123456789.")
    return "" if len(names) < 2 or common in names else common


def bits_table(space: SearchSpace, architecture: Architecture) -> pd.DataFrame:
    """Every layer that the architecture runs, in the order of the chain, placed heads and final classifier last.

    Columns: ``name``, ``part`` (segment, or ``exit:<name>``), ``group`` ("" where the layer is not searched),
    ``weight_bits``, ``activation_bits``, ``macs``, ``gbops``, ``bops_share`` (fraction of all layers listed).
    """
    frame = pd.DataFrame(layer_table(space, architecture))
    frame["part"] = frame["part"].where(~frame["exit"], "exit:" + frame["part"])
    frame["group"] = frame["group"].fillna("")
    frame["gbops"] = frame["bops"] / _GIGA
    frame["bops_share"] = frame["bops"] / frame["bops"].sum()
    return frame[["name", "part", "group", "weight_bits", "activation_bits", "macs", "gbops", "bops_share"]]


def ladder_table(ladder: Mapping[str, Any]) -> pd.DataFrame:
    """The supernet at uniform bit-widths, no early exit.

    Columns: ``bits`` (``"W/A"``), ``gbops``, ``accuracy``, ``accuracy_<exit>`` for each exit, ``difference`` to the
    row before (paired) and its ``standard_error``.
    """
    rows = [
        {
            "bits": "/".join(map(str, row["bits"])),
            "gbops": row["bops"] / _GIGA,
            "accuracy": row["accuracy"],
            **{f"accuracy_{name}": value for name, value in row["accuracy_exits"].items()},
            "difference": row["difference"],
            "standard_error": row["standard_error"],
        }
        for row in ladder["rows"]
    ]
    return pd.DataFrame(rows).astype({"difference": float, "standard_error": float})


def stage_table(run: Run) -> pd.DataFrame:
    """How long each stage took, what was put aside and the report itself left out.

    Columns: ``stage``, ``status``, ``seconds``.
    """
    rows = [
        {"stage": name, "status": stage["status"], "seconds": stage["seconds"]}
        for name, stage in run.stages.items()
        if name != "report" and not name.endswith(".old")
    ]
    return pd.DataFrame(rows, columns=["stage", "status", "seconds"]).astype({"seconds": float})
