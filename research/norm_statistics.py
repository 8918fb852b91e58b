"""Compares two ways to recompute a trained supernet's BatchNorm variances: what do they change?

usdn-nas pretrain research/studies/ranking.toml --out RUN
python research/norm_statistics.py RUN --repeats 3
python research/norm_statistics.py                  # prints the record, runs nothing

Each repeat trains the study's supernet with another seed. It then recomputes the statistics of the same weights twice,
over the same images and configurations: with the variance of all values (`usdn_nas.quant.refresh`), and with the mean
of the batches' variances (torch's own cumulative average, the former way). Both supernets evaluate the retrained
configurations of `ranking.py` and the uniform ones on the 10,000 search images. Finished repeats are recorded in
`results/norm_statistics.json` and are not run again. Prints Kendall's tau of both with paired intervals, the difference
of every repeat, and the uniform configurations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ranking import measured, settings_of, variant
from ranking_tables import judge, show
from retraining import RESULTS, Retrainings
from retraining import SCHEMA as RANKING
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from usdn_nas._util.files import digest, read_json, write_json
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.train import refresh_batches, refresh_paths, train_supernet
from usdn_nas.quant.refresh import recalibrate_bn
from usdn_nas.quant.supernet import Supernet
from usdn_nas.space.architecture import Bits
from usdn_nas.training.loop import WEIGHTS

RECORD = RESULTS.with_name("norm_statistics.json")
SCHEMA = "usdn-nas/benchmark-norm-statistics/1"
FORMER, NEW = "mean of the batches' variances", "variance of all values"


@torch.no_grad()
def mean_over_batches(supernet: Supernet, batches: Iterable[Tensor], draw: Callable[[], list[dict[str, Bits]]]) -> None:
    """Replaces the running statistics by the means of the batches' means and variances."""
    norms = [norm for norm in supernet.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then averages over all batches
    supernet.train()
    for images in batches:
        for bits in draw():
            supernet.set_bits(bits)
            supernet(images)


def compare(context: Context, retrainings: Retrainings, repeat: int) -> dict[str, Any]:
    """Trains one supernet and gives its record with either statistics."""
    made = variant(context, [], repeat, context.folder / "norm_statistics" / str(repeat))
    if not (made.folder / "supernet" / WEIGHTS).is_file():
        train_supernet(made, digest([settings_of(made), made.study.seed]))
    found, rights, recomputed = {}, {}, []
    for name, recompute in {FORMER: mean_over_batches, NEW: recalibrate_bn}.items():
        supernet = made.supernet()
        recompute(supernet, refresh_batches(made), refresh_paths(made))
        supernet.eval()
        recomputed.append(supernet)
        engine = Engine(supernet, made.search_batches, EngineSettings("float", 128, threads=made.study.threads))
        outputs = engine.run([one.bits for one in retrainings.configurations])
        uniform = dict(engine.run(made.space.ladder()))
        rights[name] = [uniform[number].correct[-1].astype(float) for number in range(len(uniform))]
        found[name] = measured(made, retrainings, outputs, ladder(made, uniform))
    found[NEW]["variance_ratio"] = variance_ratio(*recomputed)
    for row, former, new in zip(found[NEW]["ladder"], rights[FORMER], rights[NEW], strict=True):
        row["difference"] = float((new - former).mean())
        row["standard_error"] = float((new - former).std(ddof=1) / np.sqrt(len(new)))
    return found


def variance_ratio(former: Supernet, new: Supernet) -> dict[str, float]:
    """Quantiles of new / former variance, over all channels of the copies that a configuration can use."""
    pairs = zip(former.named_buffers(), new.named_buffers(), strict=True)
    ratios = [b / a for (name, a), (_, b) in pairs if name.endswith("running_var") and ".w32a32." not in name]
    return {str(share): float(torch.cat(ratios).quantile(share)) for share in (0.05, 0.5, 0.95, 1.0)}


def measure(run: Path, repeats: int, path: Path) -> None:
    """Runs the repeats that are missing and records each when it is done."""
    context = open_run(run)
    context.device  # noqa: B018  sets the number of threads
    retrainings = Retrainings(context, RESULTS)
    retrainings.read()  # refuses other weights than those of the recorded retrainings
    record: dict[str, Any] = {"schema": SCHEMA, "of": retrainings.digest, "supernets": {FORMER: {}, NEW: {}}}
    if path.is_file():
        record = read_json(path, SCHEMA)
    for repeat in range(repeats):
        if str(repeat) not in record["supernets"][NEW]:
            for name, found in compare(context, retrainings, repeat).items():
                record["supernets"][name][str(repeat)] = found
            write_json(path, record)


def ladder(made: Context, outputs: dict[int, ExitOutputs]) -> list[dict[str, Any]]:
    """Bits and last exit's accuracy of the uniform configurations."""
    return [
        {"bits": list(next(iter(bits.values()))), "accuracy": float(outputs[number].accuracy[-1])}
        for number, bits in enumerate(made.space.ladder())
    ]


def show_pairs(supernets: dict[str, Any], judged: dict[str, Any]) -> None:
    """Prints every repeat's differences, variance of all values minus mean of the batches' variances."""
    former, new = (judged["supernets"][name]["coefficients"] for name in (FORMER, NEW))
    repeats = list(supernets[NEW])
    table = Table("difference, new - former", *[f"repeat {r}" for r in repeats], title="the same weights")
    for key in (key for key in new if key.endswith("tau")):
        pairs = zip(former[key]["repeats"], new[key]["repeats"], strict=True)
        table.add_row(key, *[f"{b - a:+.3f}" for a, b in pairs])
    for number, row in enumerate(supernets[NEW][repeats[0]]["ladder"]):
        rows = [supernets[NEW][repeat]["ladder"][number] for repeat in repeats]
        cells = [f"{100 * r['difference']:+.2f} +- {100 * r['standard_error']:.2f}" for r in rows]
        table.add_row(f"accuracy at {'/'.join(map(str, row['bits']))}, points", *cells)
    cells = []
    for repeat in repeats:
        a, b = (supernets[name][repeat]["accuracy"] for name in (FORMER, NEW))
        points = np.array([100 * (b[name][-1] - a[name][-1]) for name in b])
        cells.append(f"{points.mean():+.2f} (sd {points.std(ddof=1):.2f})")
    table.add_row("accuracy of the 80 configurations, points", *cells)
    ratios = [supernets[NEW][repeat]["variance_ratio"] for repeat in repeats]
    for share in ratios[0]:
        table.add_row(f"new / former variance, quantile {share}", *[f"{ratio[share]:.4f}" for ratio in ratios])
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="run folder with the study's pretrained weights")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RECORD)
    options = parser.parse_args()
    if options.run is not None:
        measure(options.run, options.repeats, options.results)
    record = read_json(options.results, SCHEMA)
    ranking = read_json(RESULTS, RANKING)
    if record["of"] != ranking["digest"]:
        parser.error(f"{options.results} and {RESULTS} are of different weights or settings")
    judged = judge({**ranking, "supernets": record["supernets"]}, FORMER)
    show(judged)
    show_pairs(record["supernets"], judged)


if __name__ == "__main__":
    main()
