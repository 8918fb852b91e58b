"""The tables of the paper and of a run, as DataFrames. Every number comes from a written file; none is estimated.

Units are in the columns' names; accuracies and errors are fractions; costs are decimal GBOPs (1e9).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from usdn_nas._util.errors import UserError, nearest
from usdn_nas.report.run import Run
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import layer_table
from usdn_nas.space.search_space import SearchSpace

__all__ = [
    "AVERAGE",
    "anytime_table",
    "bits_table",
    "budgeted_table",
    "calibration_table",
    "front_table",
    "gap_table",
    "ladder_table",
    "mean_bits_table",
    "overthinking_table",
    "stage_table",
    "summary_table",
    "table1",
    "table1_paper",
    "table2",
    "table2_paper",
    "trade_off_table",
]

COMPARED = ("kd", "ce", "ce-temperature")
"""Models of the retrained winner whose calibration and curves are shown together."""

AVERAGE = "average"
"""The ``exit`` of the last row of `table1`."""

BUDGETS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
"""Average BOPs, relative to the reference, at which `trade_off_table` reads the curves."""

_GIGA = 1e9
_METRICS = ("error", "ece", "mce")


def _model(evaluation: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    models = evaluation["models"]
    if model not in models:
        raise UserError(
            f"the evaluation has no model '{model}'", where="evaluation.json", remedy=nearest(model, models)
        )
    return dict(models[model])


def table1(evaluation: Mapping[str, Any], model: str = "kd", *, shared: bool = False) -> pd.DataFrame:
    """Table I: how many samples leave at each exit, and what that costs.

    Args:
        evaluation: The content of ``evaluation.json``.
        model: One of its models.
        shared: With the one threshold that the study's ``evaluate.threshold`` gives all exits, as the paper's Table I;
            else with the thresholds fitted exit by exit.

    Returns:
        One row an exit and a last one, `AVERAGE`. Columns: ``exit``, ``threshold``, ``exit_rate_percent``,
        ``cost_share_gbops`` (exit rate x cumulative cost: the paper's "Cost (G)", whose sum is the average),
        ``cumulative_gbops`` (cost of a sample that leaves there), ``accuracy_leaving`` (of those that leave there; in
        the last row the policy's accuracy).

    Raises:
        UserError: There is no such model, or ``shared`` and it has no early exit.
    """
    content = _model(evaluation, model)
    if shared:
        content = _shared(content, model)
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


def _shared(content: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    """A model's figures with one threshold for all exits."""
    if content["shared"] is None:
        raise UserError(f"model '{model}' has no early exit, so no threshold", where="evaluation.json")
    return dict(content["shared"])


def table1_paper(evaluations: Mapping[str, Mapping[str, Any]], model: str = "kd") -> pd.DataFrame:
    """Table I as the paper prints it: a row a run, for each exit the rate and the cost, with one shared threshold.

    Args:
        evaluations: Name of a run -> content of its ``evaluation.json``.

    Returns:
        Columns: ``model`` (``"<name> (th=0.7)"``), and for the i-th placed exit from 0 on, the final one last,
        ``exit<i>_rate_percent`` and ``exit<i>_cost_gbops`` (exit rate x cumulative cost); NaN beyond a run's exits.
    """
    rows = []
    for name, evaluation in evaluations.items():
        shared = _shared(_model(evaluation, model), model)
        row: dict[str, Any] = {"model": f"{name} (th={shared['threshold']:g})"}
        for i, exit_ in enumerate(shared["exits"]):
            row[f"exit{i}_rate_percent"] = 100 * exit_["exit_rate"]
            row[f"exit{i}_cost_gbops"] = exit_["cost_share_bops"] / _GIGA
        rows.append(row)
    return pd.DataFrame(rows)


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


def table2_paper(evaluation: Mapping[str, Any]) -> pd.DataFrame:
    """Table II as the paper prints it: rows NonKD, KD and Variance (%).

    Returns:
        Columns: ``loss``, and for the i-th placed exit from 0 on, the final one last, ``exit<i>_error``,
        ``exit<i>_ece`` and ``exit<i>_mce``.

    Raises:
        UserError: As `table2`.
    """
    long = table2(evaluation)
    numbers = {name: f"exit{i}" for i, name in enumerate(dict.fromkeys(long["exit"]))}
    rows = [
        {"loss": loss} | {f"{numbers[row['exit']]}_{row['metric']}": row[key] for row in long.to_dict("records")}
        for loss, key in (("NonKD", "nonkd"), ("KD", "kd"), ("Variance (%)", "variance_percent"))
    ]
    return pd.DataFrame(rows)


def calibration_table(evaluation: Mapping[str, Any], models: Sequence[str] = COMPARED) -> pd.DataFrame:
    """Calibration of each exit over all samples, and how well its confidence tells right from wrong.

    Returns:
        One row a model and exit. Columns: ``model``, ``exit``, ``accuracy``, ``ece``, ``mce``, ``signed_gap``
        (mean confidence - accuracy), ``auroc`` (NaN where it is undefined: all answers right, or all wrong),
        ``temperature`` (NaN where logits are not scaled).
    """
    rows = []
    for name in models:
        if name not in evaluation["models"]:
            continue
        content = evaluation["models"][name]
        temperatures = content["temperatures"] or [math.nan] * len(content["exits"])
        for row, temperature in zip(content["exits"], temperatures, strict=True):
            figures = {key: row[key] for key in ("exit", "accuracy", "ece", "mce", "signed_gap", "auroc")}
            rows.append({"model": name, **figures, "temperature": temperature})
    columns = ["model", "exit", "accuracy", "ece", "mce", "signed_gap", "auroc", "temperature"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[2:], float))


def trade_off_table(evaluation: Mapping[str, Any], models: Sequence[str] = COMPARED) -> pd.DataFrame:
    """What accuracy each model reaches within a budget, with one threshold for all exits and with one for each.

    Within a budget the policy is the most accurate of its curve's on the search split that costs no more there; the
    figures are those of the test split.

    Returns:
        One row a budget (``relative_budget``, of the reference's BOPs) that some model meets. Columns: for each model
        and kind of thresholds ``<model>_shared`` and ``<model>_fitted``, the accuracy; NaN where no policy is so cheap.
    """
    curves = {
        f"{name}_{kind}": evaluation["models"][name][key]
        for name in models
        if name in evaluation["models"]
        for kind, key in (("shared", "sweep"), ("fitted", "fitted"))
        if evaluation["models"][name][key]
    }
    rows = []
    for budget in BUDGETS:
        row = {name: _within(curve, budget) for name, curve in curves.items()}
        if any(not math.isnan(value) for value in row.values()):
            rows.append({"relative_budget": budget, **row})
    return pd.DataFrame(rows, columns=["relative_budget", *curves])


def _within(curve: Sequence[Mapping[str, Any]], budget: float) -> float:
    """Test accuracy of the policy that is the most accurate within the budget on the search split."""
    fitting = [row for row in curve if row["search"]["relative_bops"] <= budget]
    if not fitting:
        return math.nan
    best = max(fitting, key=lambda row: (row["search"]["accuracy"], -row["search"]["average_bops"]))
    return float(best["accuracy"])


def anytime_table(evaluation: Mapping[str, Any], model: str = "kd") -> pd.DataFrame:
    """Anytime prediction (Huang et al., 2018): every sample is answered where the budget ends.

    Returns:
        One row an exit. Columns: ``exit``, ``gbops`` (of a sample answered there), ``relative_bops``, ``accuracy``.
    """
    reference = evaluation["reference_bops"]
    rows = [
        {
            "exit": row["exit"],
            "gbops": row["cumulative_bops"] / _GIGA,
            "relative_bops": row["cumulative_bops"] / reference,
            "accuracy": row["accuracy"],
        }
        for row in _model(evaluation, model)["exits"]
    ]
    return pd.DataFrame(rows)


def budgeted_table(evaluation: Mapping[str, Any], model: str = "kd") -> pd.DataFrame:
    """Budgeted batches (Huang et al., 2018): thresholds for exit shares in the ratio q, fitted on the search split.

    Returns:
        One row a ratio. Columns: ``ratio``, ``average_gbops``, ``relative_bops``, ``accuracy``, and for the i-th exit
        from 0 on, the final one last, ``exit<i>_rate_percent``. Without rows where no exit is placed.
    """
    rows = [
        {
            "ratio": row["ratio"],
            "average_gbops": row["average_bops"] / _GIGA,
            "relative_bops": row["relative_bops"],
            "accuracy": row["accuracy"],
            **{f"exit{i}_rate_percent": 100 * rate for i, rate in enumerate(row["exit_rates"])},
        }
        for row in _model(evaluation, model).get("budgeted", [])
    ]
    return pd.DataFrame(
        rows, columns=list(rows[0]) if rows else ["ratio", "average_gbops", "relative_bops", "accuracy"]
    )


def overthinking_table(evaluation: Mapping[str, Any], models: Sequence[str] = (*COMPARED, "supernet")) -> pd.DataFrame:
    """Overthinking and confusion (Kaya et al., 2019), test split.

    Returns:
        One row a model. Columns: ``model``, ``wasteful`` and ``destructive`` (shares of the samples that an earlier
        exit has right, the final one right or wrong), ``oracle_accuracy`` and ``oracle_gbops`` (each sample stops at
        the first exit that has it right), ``confusion_right``, ``confusion_wrong``, ``confusion_auroc``.
    """
    columns = ["model", "wasteful", "destructive", "oracle_accuracy", "oracle_gbops"]
    columns += ["confusion_right", "confusion_wrong", "confusion_auroc"]
    rows = []
    for name in models:
        found = evaluation["models"].get(name, {}).get("overthinking")
        if found:
            rows.append({"model": name, **found, "oracle_gbops": found["oracle_bops"] / _GIGA})
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[1:], float))


def summary_table(evaluation: Mapping[str, Any]) -> pd.DataFrame:
    """The main figures of each model's policy on the test split.

    Returns:
        One row a model. Columns: ``label``, ``accuracy``, ``gbops`` (average), ``relative_bops`` (of the reference),
        ``exit_rates_percent`` (text, one an exit, the final one last).
    """
    models = evaluation["models"].values()
    return pd.DataFrame(
        {
            "label": content["label"],
            "accuracy": content["policy"]["accuracy"],
            "gbops": content["policy"]["average_bops"] / _GIGA,
            "relative_bops": content["policy"]["relative_bops"],
            "exit_rates_percent": " ".join(f"{100 * row['exit_rate']:.1f}" for row in content["exits"]),
        }
        for content in models
    )


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


def mean_bits_table(evaluation: Mapping[str, Any]) -> pd.DataFrame:
    """Mean bits of the architecture, plain and weighted by MACs: ``"W/A"``, or one number where they are equal.

    Returns:
        Rows ``searched`` and ``all`` (layers that run, heads of placed exits included). Columns: ``layers``,
        ``mean_bits``, ``mac_weighted_bits``.
    """
    return pd.DataFrame(
        {"layers": layers, "mean_bits": bits_text(bits, "mean"), "mac_weighted_bits": bits_text(bits, "mac_weighted")}
        for layers, bits in evaluation["bits"].items()
    )


def bits_text(bits: Mapping[str, float], kind: str) -> str:
    """``"3.72/3.50"``, or one number where they are equal. ``kind``: ``"mean"`` or ``"mac_weighted"``."""
    w, a = (f"{bits[f'{kind}_{of}_bits']:.2f}" for of in ("weight", "activation"))
    return w if w == a else f"{w}/{a}"


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
    """How long each stage took, except for the report itself.

    Columns: ``stage``, ``status``, ``seconds``.
    """
    rows = [
        {"stage": name, "status": stage["status"], "seconds": stage["seconds"]}
        for name, stage in run.stages.items()
        if name != "report"
    ]
    return pd.DataFrame(rows, columns=["stage", "status", "seconds"]).astype({"seconds": float})
