"""Does a supernet order configurations as retraining does?

usdn-nas pretrain research/studies/ranking.toml --out RUN
python research/retraining.py RUN                                   # hours; goes on where it stopped
python research/ranking.py RUN                                      # trains and judges the study's supernet
python research/ranking.py                                          # prints the record, runs nothing
python research/ranking.py RUN --alone                              # trains the uniform configurations alone
python research/ranking.py RUN --name "4 paths" --set supernet.random_paths=4 --repeats 2
python research/ranking.py RUN --repeats 2 --recalibrate            # BatchNorms recalibrated for each configuration

Each supernet starts from RUN's full-precision weights and is recorded under its name with the retrainings; --repeats
trains it with other batches and paths. Without --repeats nothing is trained that is recorded. Prints for every supernet
recorded Kendall's tau and Spearman's rho of inherited against retrained accuracy with bootstrap intervals over the
configurations, and of accuracies smoothed over all that it evaluated; what a perfect supernet would reach
(`agreement.py`); the uniform configurations beside networks trained alone; and what choosing by the supernet loses in
each band.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from agreement import evaluation_noise
from ranking_tables import judge, show
from retraining import RESULTS, SCHEMA, STRATA, Configuration, Retrainings, early_exit_value

from usdn_nas._util.files import digest, read_json
from usdn_nas._util.seeds import derive
from usdn_nas._util.validation import validate
from usdn_nas.config import StudyConfig, apply_overrides
from usdn_nas.engine.engine import Engine, EngineSettings
from usdn_nas.engine.outputs import SupernetEvaluator
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context, open_run
from usdn_nas.pipeline.train import train_supernet
from usdn_nas.quant.refresh import recalibrate_bn
from usdn_nas.space.architecture import Bits
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.parameters import bits_of, configuration
from usdn_nas.training.loop import CHECKPOINT

STANDARD = "as in the study"
RECALIBRATED = ", recalibrated"
SEARCHED = 400
"""Configurations beside the retrained ones that a supernet evaluates, to smooth its accuracies."""
RECALIBRATION_BATCH, RECALIBRATION_BATCHES = 256, 16
"""Images of the training split, without augmentation, that a configuration's BatchNorm statistics are taken over."""


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


def settings_of(context: Context) -> dict[str, Any]:
    """Those of the supernet's training."""
    return context.study.supernet.model_dump(mode="json", exclude={"pretrain"}, exclude_none=True)


def folder_of(context: Context, name: str, repeat: int) -> Path:
    """Where a supernet is trained."""
    return context.folder / "ranking" / f"{name.replace(' ', '-')}-{repeat}"


def train_and_record(context: Context, retrainings: Retrainings, name: str, overrides: list[str], repeat: int) -> None:
    """Trains a supernet and records what it gives the configurations."""
    folder = folder_of(context, name, repeat)
    made = variant(context, overrides, repeat, folder)
    train_supernet(made, digest([settings_of(made), made.study.seed]))
    engine = Engine(made.supernet(), made.search_batches, EngineSettings("float", 128, threads=made.study.threads))
    outputs = engine.run([one.bits for one in retrainings.configurations])
    others = engine.run(searched(made.space, retrainings.configurations))
    ladder = read_json(folder / "supernet" / "ladder.json", "usdn-nas/ladder/1")["rows"]
    record(retrainings, name, repeat, measured(made, retrainings, outputs, ladder, others))
    (folder / "supernet" / CHECKPOINT).unlink()


def recalibrate_and_record(
    context: Context, retrainings: Retrainings, name: str, overrides: list[str], repeat: int
) -> None:
    """Records what a trained supernet gives where BatchNorm statistics are taken anew for each configuration."""
    made = variant(context, overrides, repeat, folder_of(context, name, repeat))
    supernet = made.supernet()
    images = made.data.train.batches(RECALIBRATION_BATCH, shuffle_seed=(derive(made.study.seed, "recalibration"),))
    batches = [batch.to(made.device) for batch, _ in itertools.islice(images, RECALIBRATION_BATCHES)]
    evaluator = SupernetEvaluator(supernet, made.search_batches)

    def outputs_of(bits: dict[str, Bits]) -> ExitOutputs:
        recalibrate_bn(supernet, batches, lambda: [bits])
        supernet.eval()
        return evaluator(bits)

    outputs = ((index, outputs_of(one.bits)) for index, one in enumerate(retrainings.configurations))
    ladder = [
        {"bits": list(next(iter(bits.values()))), "accuracy": float(outputs_of(bits).accuracy[-1])}
        for bits in made.space.ladder()
    ]
    record(retrainings, f"{name}{RECALIBRATED}", repeat, measured(made, retrainings, outputs, ladder))


def record(retrainings: Retrainings, name: str, repeat: int, new: dict[str, Any]) -> None:
    """Writes the record of one supernet."""
    with retrainings.change() as results:
        results.setdefault("supernets", {}).setdefault(name, {})[str(repeat)] = new


def measured(
    made: Context,
    retrainings: Retrainings,
    outputs: Iterable[tuple[int, ExitOutputs]],
    ladder: list[dict[str, Any]],
    others: Iterable[tuple[int, ExitOutputs]] = (),
) -> dict[str, Any]:
    """The record of one supernet: what it gives the configurations and the `searched` ones.

    Args:
        outputs: The outputs of the retrained configurations, each with its number.
        ladder: Rows of the uniform configurations.
        others: The outputs of the `searched` configurations, each with its number.
    """
    configurations = retrainings.configurations
    accuracy, value = {}, {}
    right, parts = (np.empty((len(configurations), len(made.data.search))) for _ in range(2))
    for index, found in outputs:
        one = configurations[index]
        accuracy[one.name] = found.accuracy.tolist()
        value[one.name], parts[index] = early_exit_value(made.space, one.bits, found, made.study.search.tr)
        right[index] = found.correct[-1]
    strata = np.array([one.stratum for one in configurations])
    return {
        "settings": settings_of(made),
        "accuracy": accuracy,
        "value": value,
        "noise": {
            "accuracy": {stratum: evaluation_noise(right[strata == stratum]) for stratum in STRATA},
            "value": {stratum: evaluation_noise(parts[strata == stratum]) for stratum in STRATA},
        },
        "ladder": ladder,
        "searched": of_searched(made, searched(made.space, configurations), others),
        "provenance": made.provenance(),
    }


def searched(space: SearchSpace, configurations: Sequence[Configuration]) -> list[dict[str, Bits]]:
    """`SEARCHED` other configurations, drawn at random: as many as a search may have evaluated."""
    judged = [one.bits for one in configurations]
    numbers = np.random.default_rng(5).permutation(space.bit_configurations).tolist()
    drawn = (bits_of(space, configuration(space, number)) for number in numbers)
    return list(itertools.islice((bits for bits in drawn if bits not in judged), SEARCHED))


def of_searched(
    made: Context, configurations: Sequence[dict[str, Bits]], outputs: Iterable[tuple[int, ExitOutputs]]
) -> dict[str, Any]:
    """Bits of the groups, accuracy of the last exit and the early exits' value, one each; {} where none was run."""
    found = dict(outputs)
    if not found:
        return {}
    values = [
        early_exit_value(made.space, bits, found[number], made.study.search.tr)[0]
        for number, bits in enumerate(configurations)
    ]
    return {
        "bits": [" ".join(f"{w}/{a}" for w, a in bits.values()) for bits in configurations],
        "accuracy": [float(found[number].accuracy[-1]) for number in range(len(configurations))],
        "value": values,
    }


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
    parser.add_argument("run", type=Path, nargs="?", help="run folder with the study's pretrained weights")
    parser.add_argument("--name", default=STANDARD)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--recalibrate", action="store_true", help="judge each with its BatchNorms recalibrated, too")
    parser.add_argument("--alone", action="store_true", help="train the uniform configurations alone, too, as long")
    parser.add_argument("--against", default=STANDARD, metavar="NAME", help="supernet that others are compared with")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    if options.run is not None:
        measure(options)
    elif options.overrides or options.recalibrate or options.alone or options.name != STANDARD or options.repeats != 1:
        parser.error("name the RUN to train with these options")
    judged = judge(read_json(options.results, SCHEMA), options.against)
    if options.format == "json":
        print(json.dumps(judged, indent=2))
    else:
        show(judged)


def measure(options: argparse.Namespace) -> None:
    """Trains the supernets that the options ask for and that are not recorded, and records them."""
    context = open_run(options.run)
    context.device  # noqa: B018  sets the number of threads
    retrainings = Retrainings(context, options.results)
    for repeat in range(options.repeats):
        for name, work in {options.name: train_and_record, options.name + RECALIBRATED: recalibrate_and_record}.items():
            known: dict[str, Any] = retrainings.read().get("supernets", {})
            wanted = work is train_and_record or options.recalibrate
            if wanted and str(repeat) not in known.get(name, {}):
                work(context, retrainings, options.name, options.overrides, repeat)
    if options.alone:
        train_alone(context, retrainings, options.name, options.overrides)


if __name__ == "__main__":
    main()
