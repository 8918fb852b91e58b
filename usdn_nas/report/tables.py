"""Makes the tables of the paper and of a run, as DataFrames. Every number comes from a file; none is estimated.

The names of the columns contain the units. Accuracies and errors are fractions. Costs are giga bit operations (GBOPs,
1e9 BOPs).
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
"""Models of the retrained winner whose calibration and curves are compared."""

AVERAGE = "average"
"""Value of ``exit`` in the last row of `table1`."""

BUDGETS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
"""Budgets of `trade_off_table`: average BOPs relative to the reference."""

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
    """Returns Table I: how many samples leave at each exit, and at what cost.

    Args:
        evaluation: The content of ``evaluation.json``.
        model: One of its models.
        shared: True: with the same threshold (``evaluate.threshold``) at all exits, as in the paper's Table I. False:
            with the thresholds fitted exit by exit.

    Returns:
        A table with one row an exit and a last row, `AVERAGE`. Columns: ``exit``; ``threshold``; ``exit_rate_percent``;
        ``cost_share_gbops`` (exit rate x cumulative cost: the paper's "Cost (G)", whose sum is the average cost);
        ``cumulative_gbops`` (cost of a sample that leaves at the exit); ``accuracy_leaving`` (accuracy on the samples
        that leave at the exit; in the last row, accuracy of the policy).

    Raises:
        UserError: There is no such model, or ``shared`` is True and the model has no early exit.
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
    """Returns a model's figures with one threshold for all exits."""
    if content["shared"] is None:
        raise UserError(f"model '{model}' has no early exit, so no threshold", where="evaluation.json")
    return dict(content["shared"])


def table1_paper(evaluations: Mapping[str, Mapping[str, Any]], model: str = "kd") -> pd.DataFrame:
    """Returns Table I in the paper's form: one row a run, with rate and cost of each exit at one shared threshold.

    Args:
        evaluations: Maps the name of each run to the content of its ``evaluation.json``.
        model: One of the models of every evaluation.

    Returns:
        A table with the column ``model`` (``"<name> (th=0.7)"``) and, for each exit i from 0, ``exit<i>_rate_percent``
        and ``exit<i>_cost_gbops`` (exit rate x cumulative cost). The final exit is the last. Exits that a run does not
        have are NaN.
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
    """Returns Table II: error and calibration errors of each exit over all samples, without and with distillation.

    Returns:
        A table with one row for each exit and metric. Columns: ``exit``; ``metric`` (``error``, ``ece`` or ``mce``, the
        expected and maximum calibration error); ``nonkd`` (trained with cross-entropy alone); ``kd`` (with knowledge
        distillation); ``variance_percent`` (the paper's name for the relative change, 100 (kd - nonkd) / nonkd).

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
    """Returns Table II in the paper's form, with the rows NonKD, KD and Variance (%).

    Returns:
        A table with the column ``loss`` and, for each exit i from 0, ``exit<i>_error``, ``exit<i>_ece`` and
        ``exit<i>_mce``. The final exit is the last.

    Raises:
        UserError: The winner was not retrained with cross-entropy alone.
    """
    long = table2(evaluation)
    numbers = {name: f"exit{i}" for i, name in enumerate(dict.fromkeys(long["exit"]))}
    rows = [
        {"loss": loss} | {f"{numbers[row['exit']]}_{row['metric']}": row[key] for row in long.to_dict("records")}
        for loss, key in (("NonKD", "nonkd"), ("KD", "kd"), ("Variance (%)", "variance_percent"))
    ]
    return pd.DataFrame(rows)


def calibration_table(evaluation: Mapping[str, Any], models: Sequence[str] = COMPARED) -> pd.DataFrame:
    """Returns the calibration of each exit over all samples, and how well its confidence reveals wrong answers.

    Returns:
        A table with one row for each model and exit. Columns: ``model``, ``exit``, ``accuracy``, ``ece``, ``mce``,
        ``signed_gap`` (mean confidence - accuracy), ``auroc`` (NaN if all answers are right or all are wrong, because
        it is undefined then), ``temperature`` (NaN if logits are not scaled).
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
    """Returns the accuracy of each model within budgets, with one threshold for all exits and with one for each exit.

    For each budget, the policies of a curve that meet the budget on the search split are compared, and the one with
    the highest accuracy on the search split is chosen. The table shows its accuracy on the test split.

    Returns:
        A table with one row for each budget that some model meets. Columns: ``relative_budget`` (relative to the BOPs
        of the reference), and for each model ``<model>_shared`` and ``<model>_fitted``, the accuracies with a shared
        threshold and with fitted thresholds; NaN if no policy meets the budget.
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
    """Returns the test accuracy of the policy that is most accurate within the budget on the search split."""
    fitting = [row for row in curve if row["search"]["relative_bops"] <= budget]
    if not fitting:
        return math.nan
    best = max(fitting, key=lambda row: (row["search"]["accuracy"], -row["search"]["average_bops"]))
    return float(best["accuracy"])


def anytime_table(evaluation: Mapping[str, Any], model: str = "kd") -> pd.DataFrame:
    """Returns figures for anytime prediction (Huang et al., 2018): all samples are answered at the same exit.

    Returns:
        A table with one row an exit. Columns: ``exit``, ``gbops`` (cost of a sample answered there), ``relative_bops``,
        ``accuracy``.
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
    """Returns figures for budgeted batches (Huang et al., 2018).

    On the search split, thresholds are fitted for which the shares of samples at successive exits have the ratio q.

    Returns:
        A table with one row for each ratio. Columns: ``ratio``, ``average_gbops``, ``relative_bops``, ``accuracy``, and
        ``exit<i>_rate_percent`` for each exit i from 0; the final exit is the last. It has no rows if no exit is
        placed.
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
    """Returns the overthinking and confusion (Kaya et al., 2019) of each model on the test split.

    Returns:
        A table with one row a model. Columns: ``model``; ``wasteful`` and ``destructive`` (shares of the samples that
        an earlier exit answers correctly, and the final exit correctly or wrongly, respectively); ``oracle_accuracy``
        and ``oracle_gbops`` (if each sample stopped at the first exit that answers it correctly); ``confusion_right``
        and ``confusion_wrong`` (confusion where the final answer is right or wrong); ``confusion_auroc`` (how well
        confusion predicts a wrong final answer).
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
    """Returns the figures of policies on the search split, where thresholds were fitted, and on the test split.

    Returns:
        A table with one row for each model that has a policy on both splits. Columns: ``model``, ``label``,
        ``search_accuracy``, ``test_accuracy``, ``gap_points`` (test - search, in percentage points), ``search_gbops``
        and ``test_gbops`` (averages), ``search_n``, ``n``.
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
    """Returns a front in a form for people, with one column of bits for all groups, in the order of the chain.

    Args:
        front: A table from `Run.front`.
        space: The search space of the run.

    Returns:
        A table with the columns ``trial``, ``accuracy``, ``gbops``, ``bits`` (W/A of each group, or one number if both
        are equal), ``threshold`` (float, NaN without exits) or, if a point has different thresholds, ``thresholds``
        (text), and ``exits``. The beginning that all candidates' names share is moved to the name of this column:
        ``layer1.0`` becomes ``1.0`` under ``exits (layer…)``.
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
    """Returns the beginning that all names share, without digits and dots: ``"layer"`` for ``layer1.0``, ``layer1.1``.

    Returns ``""`` if there is only one name.
    """
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    common = "".join(letters[0] for letters in same).rstrip("0123456789.")
    return "" if len(names) < 2 or common in names else common


def bits_table(space: SearchSpace, architecture: Architecture) -> pd.DataFrame:
    """Returns a table of the layers that the architecture runs: the chain's layers in order, then those of the exits.

    Columns: ``name``, ``part`` (segment, or ``exit:<name>``), ``group`` ("" if the layer is not searched),
    ``weight_bits``, ``activation_bits``, ``macs``, ``gbops``, ``bops_share`` (fraction of the BOPs of these layers).
    """
    frame = pd.DataFrame(layer_table(space, architecture))
    frame["part"] = frame["part"].where(~frame["exit"], "exit:" + frame["part"])
    frame["group"] = frame["group"].fillna("")
    frame["gbops"] = frame["bops"] / _GIGA
    frame["bops_share"] = frame["bops"] / frame["bops"].sum()
    return frame[["name", "part", "group", "weight_bits", "activation_bits", "macs", "gbops", "bops_share"]]


def mean_bits_table(evaluation: Mapping[str, Any]) -> pd.DataFrame:
    """Returns the mean bits of the architecture, unweighted and weighted by MACs.

    Returns:
        A table with the rows ``searched`` (searched layers) and ``all`` (all layers that run, including the heads of
        placed exits). Columns: ``layers``, ``mean_bits``, ``mac_weighted_bits``; each is ``"W/A"``, or one number if
        both are equal.
    """
    return pd.DataFrame(
        {"layers": layers, "mean_bits": bits_text(bits, "mean"), "mac_weighted_bits": bits_text(bits, "mac_weighted")}
        for layers, bits in evaluation["bits"].items()
    )


def bits_text(bits: Mapping[str, float], kind: str) -> str:
    """Returns mean bits as ``"3.72/3.50"``, or as one number if both are equal.

    ``kind`` is ``"mean"`` or ``"mac_weighted"``.
    """
    w, a = (f"{bits[f'{kind}_{of}_bits']:.2f}" for of in ("weight", "activation"))
    return w if w == a else f"{w}/{a}"


def ladder_table(ladder: Mapping[str, Any]) -> pd.DataFrame:
    """Returns a table of the supernet at uniform bit-widths, without early exits.

    Columns: ``bits`` (``"W/A"``), ``gbops``, ``accuracy``, ``accuracy_<exit>`` for each exit, ``difference`` (paired
    difference in accuracy to the row above) and its ``standard_error``.
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
    """Returns a table of how long each stage took, except the report itself.

    Columns: ``stage``, ``status``, ``seconds``.
    """
    rows = [
        {"stage": name, "status": stage["status"], "seconds": stage["seconds"]}
        for name, stage in run.stages.items()
        if name != "report"
    ]
    return pd.DataFrame(rows, columns=["stage", "status", "seconds"]).astype({"seconds": float})
