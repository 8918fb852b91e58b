"""Does a supernet order configurations as retraining does?

usdn-nas pretrain benchmarks/studies/ranking.toml --out RUN
python benchmarks/retraining.py RUN                                   # hours; goes on where it stopped
python benchmarks/ranking.py RUN                                      # trains and judges the study's supernet
python benchmarks/ranking.py RUN --alone                              # trains the uniform configurations alone
python benchmarks/ranking.py RUN --name "4 paths" --set supernet.random_paths=4 --repeats 2

Each supernet starts from RUN's full-precision weights and is recorded under its name with the retrainings; --repeats
trains it with other batches and paths. Without --repeats nothing is trained that is recorded. Prints for every supernet
recorded Kendall's tau and Spearman's rho of inherited against retrained accuracy with bootstrap intervals over the
configurations, what a perfect supernet would reach (`agreement.py`), the uniform configurations beside networks trained
alone, and what choosing by the supernet loses in each band.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from agreement import evaluation_noise
from ranking_tables import judge, show
from retraining import RESULTS, STRATA, Retrainings, early_exit_value

from usdn_nas.config import StudyConfig, apply_overrides
from usdn_nas.evaluation.engine import Engine, EngineSettings
from usdn_nas.files import digest, read_json
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.train import train_supernet
from usdn_nas.seeds import derive
from usdn_nas.training.loop import CHECKPOINT
from usdn_nas.validation import validate

STANDARD = "as in the study"


def variant(context: Context, overrides: list[str], repeat: int, folder: Path) -> Context:
    """The context with other settings and another seed, but the same data and full-precision weights."""
    payload = context.study.model_dump(mode="json")
    apply_overrides(payload, overrides)
    study = validate(StudyConfig, payload, where="--set")
    seed = derive(study.seed, "repeat", repeat)
    made = replace(context, study=study.model_copy(update={"seed": seed}), folder=folder)
    made.__dict__["data"] = context.data  # the split follows the study's own seed
    made.__dict__["pretrained"] = context.pretrained
    return made


def train_and_record(context: Context, retrainings: Retrainings, name: str, overrides: list[str], repeat: int) -> None:
    """Trains a supernet and records what it gives the configurations."""
    folder = context.folder / "ranking" / f"{name.replace(' ', '-')}-{repeat}"
    made = variant(context, overrides, repeat, folder)
    settings = made.study.supernet.model_dump(mode="json", exclude={"pretrain"}, exclude_none=True)
    train_supernet(made, digest([settings, made.study.seed]))
    engine = Engine(made.supernet(), made.search_batches, EngineSettings("float", 128, threads=made.study.threads))
    configurations = retrainings.configurations
    accuracy, value = {}, {}
    right, parts = (np.empty((len(configurations), len(made.data.search))) for _ in range(2))
    for index, outputs in engine.run([one.bits for one in configurations]):
        one = configurations[index]
        accuracy[one.name] = outputs.accuracy.tolist()
        value[one.name], parts[index] = early_exit_value(made.space, one.bits, outputs, made.study.search.tr)
        right[index] = outputs.correct[-1]
    strata = np.array([one.stratum for one in configurations])
    record = {
        "settings": settings,
        "accuracy": accuracy,
        "value": value,
        "noise": {
            "accuracy": {stratum: evaluation_noise(right[strata == stratum]) for stratum in STRATA},
            "value": {stratum: evaluation_noise(parts[strata == stratum]) for stratum in STRATA},
        },
        "ladder": read_json(folder / "supernet" / "ladder.json", "usdn-nas/ladder/1")["rows"],
        "provenance": made.provenance(),
    }
    with retrainings.change() as results:
        results.setdefault("supernets", {}).setdefault(name, {})[str(repeat)] = record
    (folder / "supernet" / CHECKPOINT).unlink()


def train_alone(context: Context, retrainings: Retrainings, name: str, overrides: list[str]) -> None:
    """Trains each uniform configuration alone with the supernet's own settings, and records its accuracy."""
    settings = variant(context, overrides, 0, context.folder).study.supernet.qat
    for bits in context.space.ladder():
        pair = "/".join(map(str, next(iter(bits.values()))))
        if pair in retrainings.read().get("alone", {}).get(name, {}).get("accuracy", {}):
            continue
        title = f"{name} alone {pair}"
        folder = context.folder / "ranking" / title.replace(" ", "-").replace("/", "-")
        payload = settings.model_dump(mode="json", exclude_none=True)
        seed, fingerprint = derive(context.study.seed, "alone"), digest([pair, payload])
        outputs = retrainings.train(bits, settings, seed, folder, fingerprint)
        with retrainings.change() as results:
            record = results.setdefault("alone", {}).setdefault(name, {"settings": payload, "accuracy": {}})
            record["accuracy"][pair] = float(outputs.accuracy[-1])
        (folder / CHECKPOINT).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", default=STANDARD)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="train the uniform configurations alone, too, as long")
    parser.add_argument("--against", default=STANDARD, metavar="NAME", help="supernet that others are compared with")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    context = open_run(options.run)
    context.device  # noqa: B018  sets the number of threads
    retrainings = Retrainings(context, options.results)
    for repeat in range(options.repeats):
        known: dict[str, Any] = retrainings.read().get("supernets", {})
        if str(repeat) not in known.get(options.name, {}):
            train_and_record(context, retrainings, options.name, options.overrides, repeat)
    if options.alone:
        train_alone(context, retrainings, options.name, options.overrides)
    judged = judge(retrainings.read(), options.against)
    if options.format == "json":
        print(json.dumps(judged, indent=2))
    else:
        show(judged)


if __name__ == "__main__":
    main()
