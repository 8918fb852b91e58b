"""4-bit MSDNet and SDN under two training schemes, the authors' own and ours, in as many epochs.

python research/schemes.py --seeds 1

Every study (`STUDIES`) runs from pre-training to the evaluation on the test split; what is finished is in the record
and is not run again. Printed: accuracy at every exit (anytime), and within budgets of average BOPs by thresholds that
the search split gives (budgeted batches); test split.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from usdn_nas._util.files import write_json
from usdn_nas._util.progress import Reporter
from usdn_nas.documents import EvaluationDocument, read_document
from usdn_nas.pipeline.context import open_run
from usdn_nas.pipeline.stages import Pipeline

SCHEMA = "usdn-nas/benchmark-schemes/1"
FOLDER = Path(__file__).parent
STUDIES = ("fashion_msdnet", "fashion_msdnet_own_scheme", "fashion_sdn", "fashion_sdn_own_scheme")
SHARES = (0.25, 0.5, 0.75)
"""Budgets, as shares of what the whole network takes with all its exits."""


def measure(study: str, seed: int, runs: Path, reporter: Reporter) -> dict[str, Any]:
    """Runs a study and returns what its evaluation says of the network at its end."""
    overrides = (f"seed={seed}", "threads=1")
    context = open_run(FOLDER / "studies" / f"{study}.toml", overrides, runs / f"seed-{seed}" / study, reporter)
    Pipeline(context).run(until="evaluate")
    _, evaluation = read_document(context.folder / "evaluation.json", EvaluationDocument)
    content = evaluation["models"]["kd"]
    return {
        "n": evaluation["n"],
        "exits": [row["exit"] for row in content["exits"]],
        "accuracy": [row["accuracy"] for row in content["exits"]],
        "full_bops": content["exits"][-1]["cumulative_bops"],
        "budgeted": [{key: row[key] for key in ("ratio", "accuracy", "average_bops")} for row in content["budgeted"]],
        "overthinking": content["overthinking"],
        "settings": context.study.model_dump(mode="json", include={"supernet", "search", "retrain"}),
        "provenance": evaluation["provenance"],
    }


def within(record: dict[str, Any], share: float) -> float:
    """Accuracy of the dearest of the budgeted policies that stay within ``share``."""
    fitting = [row for row in record["budgeted"] if row["average_bops"] <= share * record["full_bops"]]
    dearest: float = max(fitting, key=lambda row: row["average_bops"])["accuracy"] if fitting else float("nan")
    return dearest


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation of fractions, in percent; a dash where no policy is so cheap."""
    if math.isnan(sum(values)):
        return "-"
    deviation = f" ±{100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def table(results: dict[str, dict[str, Any]], network: str) -> Table:
    """The network's two schemes, a row a figure."""
    columns = {study: list(seeds.values()) for study, seeds in results.items() if study.startswith(network)}
    count = min(map(len, columns.values()))
    made = Table("accuracy (%)", *columns, title=f"{network}, test split, {count} seeds, mean ± standard deviation")
    exits = next(iter(columns.values()))[0]["exits"]
    for i, name in enumerate(exits):
        made.add_row(f"exit {name}", *(spread([seed["accuracy"][i] for seed in seeds]) for seeds in columns.values()))
    for share in SHARES:
        cells = (spread([within(seed, share) for seed in seeds]) for seeds in columns.values())
        made.add_row(f"within {100 * share:.0f}% of all BOPs", *cells)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="0 to SEEDS - 1")
    parser.add_argument("--runs", type=Path, default=Path("runs/schemes"))
    parser.add_argument("--results", type=Path, default=FOLDER / "results" / "schemes.json")
    options = parser.parse_args()
    reporter = Reporter(Console(stderr=True))
    for seed in range(options.seeds):
        for study in STUDIES:
            there = json.loads(options.results.read_text()) if options.results.is_file() else {"schema": SCHEMA}
            if str(seed) not in there.setdefault("studies", {}).setdefault(study, {}):
                there["studies"][study][str(seed)] = measure(study, seed, options.runs, reporter)
                write_json(options.results, there)
    results = json.loads(options.results.read_text())["studies"]
    for network in ("fashion_msdnet", "fashion_sdn"):
        Console(width=120).print(table(results, network))


if __name__ == "__main__":
    main()
