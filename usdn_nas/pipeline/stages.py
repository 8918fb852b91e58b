"""The stages of a study: pretrain > supernet > search > export > retrain > evaluate > report.

The inputs of a stage are the settings and the digests of the files that it reads. So after a setting was changed,
exactly those stages run again that depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from usdn_nas._util.errors import RunError, UserError
from usdn_nas._util.files import file_digest
from usdn_nas._util.parsing import check_path
from usdn_nas.config import RetrainConfig, SupernetConfig
from usdn_nas.exits.exact import MAX_CANDIDATES, too_many_candidates
from usdn_nas.export.document import ArchitectureFile, read_architecture
from usdn_nas.pipeline import search as searching
from usdn_nas.pipeline import study as study_stage
from usdn_nas.pipeline import train
from usdn_nas.pipeline.context import Context
from usdn_nas.pipeline.evaluate import evaluate, write_all_figures
from usdn_nas.pipeline.ledger import Ledger, Stage
from usdn_nas.pipeline.places import check_places
from usdn_nas.space.architecture import Architecture
from usdn_nas.study.samplers import goal
from usdn_nas.study.session import planned, settings_that_matter

__all__ = ["Pipeline", "retrain_folder"]

Work = Callable[[Stage], None]
Loss = Literal["kd", "ce"]

STAGES = ("pretrain", "supernet", "search", "export", "retrain", "evaluate", "report")


def retrain_folder(architecture: Architecture) -> str:
    """Returns the path of an architecture's retrained weights, relative to the run folder."""
    return f"retrain/{architecture.network_digest[:12]}"


def _ramp(section: str, settings: SupernetConfig | RetrainConfig) -> dict[str, str]:
    """Returns ``exit_loss`` as an input; nothing if constant, so that runs from before this setting stay valid."""
    return {} if settings.exit_loss == "constant" else {f"{section}.exit_loss": settings.exit_loss}


class Pipeline:
    """Runs the stages of one run folder. Finished stages are skipped.

    Args:
        context: The study and its folder.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ledger = Ledger(context.folder, context.reporter)

    @cached_property
    def _common(self) -> dict[str, Any]:
        """Inputs of every stage. ``format`` is raised when a new version of the code would give other results."""
        return {"seed": self.context.study.seed, "data": self.context.data.digest, "format": 1}

    @cached_property
    def _network(self) -> dict[str, Any]:
        """Inputs of full-precision training: the network and its candidate exits, without bits."""
        space = self.context.space
        heads = self.context.spec.exits.model_dump(mode="json", include={"head", "head_width"})
        network = self.context.spec.network.model_dump(mode="json")
        return {"network": {**network, **heads, "candidates": list(space.candidates)}}

    @cached_property
    def _start(self) -> dict[str, str]:
        """Digest of the file ``supernet.weights`` as an input, if the study names such a file.

        If the file is gone, the digest recorded by pre-training is used.

        Raises:
            UserError: There is no such file, and pre-training has not recorded its digest.
        """
        weights = self.context.study.supernet.weights
        if weights is None:
            return {}
        check_path(weights, "supernet.weights")
        if Path(weights).is_file():
            return {"supernet.weights": file_digest(Path(weights))}
        known = self.ledger.records.get("pretrain", {}).get("inputs", {}).get("supernet.weights")
        if known is None:
            raise UserError("no such file", where=f"supernet.weights: {weights}")
        return {"supernet.weights": known}

    @cached_property
    def _space(self) -> dict[str, Any]:
        """Inputs of all stages that depend on bits."""
        return {"space": self.context.space.digest}

    def _stage(
        self, key: str, inputs: dict[str, Any], outputs: tuple[str, ...], run: Work, extent: int | None = None
    ) -> Stage:
        def named(stage: Stage) -> None:
            try:
                run(stage)
            except RunError as error:
                raise error if str(error).startswith(key.split("/")[0]) else RunError(f"{key}: {error}") from error

        return Stage(key, {**self._common, **inputs}, outputs, named, extent)

    def pretrain(self) -> Stage:
        """Returns the stage of full-precision pre-training."""
        study = self.context.study
        inputs = {
            **self._network,
            "supernet.pretrain": study.supernet.pretrain.model_dump(mode="json"),
            "supernet.exit_weight": study.supernet.exit_weight,
            **_ramp("supernet", study.supernet),
            **self._start,
            "data.augment": study.data.augment,
        }
        outputs = ("pretrain/weights.safetensors", "pretrain/history.csv")
        return self._stage("pretrain", inputs, outputs, lambda stage: train.pretrain(self.context, stage.fingerprint))

    def supernet(self) -> Stage:
        """Returns the stage of the supernet's quantization-aware training."""
        study = self.context.study
        inputs = {
            **self._space,
            "supernet": study.supernet.model_dump(mode="json", exclude={"pretrain", "weights"}),
            "batch_size": study.batch_size,  # affects rounding in the calibration
            "data.augment": study.data.augment,
            "pretrained weights": self._weights("pretrain"),
        }
        files = ("weights.safetensors", "history.csv", "ladder.json", "diagnostics.json")
        outputs = tuple(f"supernet/{name}" for name in files)
        return self._stage(
            "supernet", inputs, outputs, lambda stage: train.train_supernet(self.context, stage.fingerprint)
        )

    def search(self) -> Stage:
        """Returns the stage of the search, which is an Optuna study."""
        settings = self.context.study.search
        inputs = {
            **self._space,
            "search": {**settings_that_matter(settings), "sampler": self._sampler},
            "supernet weights": self._weights("supernet"),
        }
        outputs: tuple[str, ...] = ("search/front.csv", "search/trials.csv", "search/seconds.csv", "search/engine.json")
        if settings.exits != "sampled":
            outputs += ("search/sensitivity.json",)
        return self._stage(
            "search",
            inputs,
            outputs,
            lambda stage: study_stage.search(self.context, stage.inputs),
            goal(self.context.space, settings),
        )

    @property
    def _sampler(self) -> str:
        """Sampler of the search. If the study says ``auto`` and a full enumeration is finished, it is ``brute``."""
        wanted, record = self.context.study.search.sampler, self.ledger.records.get("search")
        if wanted != "auto" or record is None or record["status"] != "done":
            return wanted
        enumerated = record["inputs"]["search"]["sampler"] == "brute"
        return "brute" if enumerated and record["extent"] >= self.context.space.bit_configurations else wanted

    def export(self) -> Stage:
        """Returns the stage that writes ``export/architecture.json``: the point that the study's ``[export]`` picks."""
        study = self.context.study
        inputs = {
            "export": study.export.model_dump(mode="json"),
            "search.tr": study.search.tr,
            "front": self.ledger.output_digest("search", "front.csv"),
        }
        if study.export.score == "smoothed":
            inputs["trials"] = self.ledger.output_digest("search", "trials.csv")
        path = self.context.folder / "export" / "architecture.json"
        return self._stage(
            "export",
            inputs,
            ("export/architecture.json",),
            lambda stage: searching.export(self.context, path, study.export),
        )

    def retrain(self, file: ArchitectureFile) -> list[Stage]:
        """Returns the stages of retraining.

        First comes the teacher, then the network trained with KD and, unless switched off, the network trained with CE
        alone. The thresholds of each network are refitted after its training.
        """
        return [self._teacher(file)] + [
            stage for loss in self._losses for stage in (self._retrained(file, loss), self._thresholds(file, loss))
        ]

    @property
    def _losses(self) -> tuple[Loss, ...]:
        return ("kd", "ce") if self.context.study.retrain.compare_ce else ("kd",)

    def _of_architecture(self, file: ArchitectureFile) -> dict[str, Any]:
        """Returns the inputs of every training of one architecture. Thresholds are not among them."""
        return {
            "exits": list(file.architecture.exits),
            "data.augment": self.context.study.data.augment,
            "retrain.exit_weight": self.context.study.retrain.exit_weight,
            **_ramp("retrain", self.context.study.retrain),
        }

    def _teacher(self, file: ArchitectureFile) -> Stage:
        context, settings = self.context, self.context.study.retrain
        key = f"{retrain_folder(file.architecture)}/teacher"
        pretrained = settings.teacher_init == "pretrained"
        inputs = {
            **self._network,
            **self._of_architecture(file),
            "retrain.teacher": settings.teacher.model_dump(mode="json"),
            "pretrained weights": self._weights("pretrain") if pretrained else None,
        }
        return self._stage(
            key,
            inputs,
            (f"{key}/weights.safetensors", f"{key}/history.csv"),
            lambda stage: train.train_teacher(context, file.architecture, context.folder / key, stage.fingerprint),
        )

    def _retrained(self, file: ArchitectureFile, loss: Loss) -> Stage:
        context, settings = self.context, self.context.study.retrain
        folder = retrain_folder(file.architecture)
        key = f"{folder}/{loss}"
        elsewhere = {"teacher", "teacher_init", "compare_ce", "exit_weight", "exit_loss"}
        only_kd = {"temperature", "alpha", "alpha_weighs", "teacher_exit"} if loss == "ce" else set()
        inputs = {
            **self._space,
            **self._of_architecture(file),
            "bits": file.architecture.to_dict()["bits"],
            "retrain": settings.model_dump(mode="json", exclude=elsewhere | only_kd),
            "supernet.calibration_images": context.study.supernet.calibration_images,
            "batch_size": context.study.batch_size,  # batch size of the calibration
            "teacher weights": self._weights(f"{folder}/teacher"),
            "supernet weights": self._weights("supernet") if settings.init == "supernet" else None,
        }

        def run(stage: Stage) -> None:
            teacher = context.folder / folder / "teacher"
            train.train_retrained(context, file.architecture, context.folder / key, teacher, stage.fingerprint, loss)

        return self._stage(key, inputs, (f"{key}/weights.safetensors", f"{key}/history.csv"), run)

    def _thresholds(self, file: ArchitectureFile, loss: Loss) -> Stage:
        context = self.context
        key = f"{retrain_folder(file.architecture)}/{loss}"
        objective = searching.objective_of(context, file)
        inputs = {**self._space, "objective": objective.model_dump(mode="json"), "weights": self._weights(key)}
        if file.architecture.rule != "threshold":
            inputs["rule"] = file.architecture.rule
        return self._stage(
            f"{key} thresholds",
            inputs,
            (f"{key}/architecture.json",),
            lambda stage: searching.refit(context, file, objective, context.folder / key),
        )

    def evaluate(self, file: ArchitectureFile, *, main: bool) -> Stage:
        """Returns the stage of the evaluation on the test split.

        ``main`` is True for the run's exported architecture, and False for an architecture that the user gave.
        """
        context, key = self.context, retrain_folder(file.architecture)
        inputs = {
            **self._space,
            "evaluate": context.study.evaluate.model_dump(mode="json"),
            "architecture": file.architecture.to_dict(),
            "weights": {part: self._weights(f"{key}/{part}") for part in ("teacher", *self._losses)},
            "thresholds": {loss: self.ledger.output_digest(f"{key}/{loss} thresholds") for loss in self._losses},
            "supernet weights": self._weights("supernet"),
            "pretrained weights": self._weights("pretrain"),
        }
        name = "evaluation.json" if main else f"{key}/evaluation.json"
        return self._stage(
            "evaluate" if main else f"{key}/evaluate",
            inputs,
            (name,),
            lambda stage: evaluate(context, file, context.folder / key, context.folder / name),
        )

    def report(self) -> Stage:
        """Returns the stage that draws the figures and writes the HTML report."""
        parts = ("pretrain", "supernet", "search", "export", "evaluate")
        inputs = {
            "study": self.context.study.model_dump(mode="json", exclude={"tensorboard"}),
            **{part: self.ledger.output_digest(part) for part in parts},
        }
        outputs = ("report.html", "figures/*")
        return self._stage("report", inputs, outputs, lambda stage: write_all_figures(self.context))

    def _weights(self, key: str) -> str:
        return self.ledger.output_digest(key, "weights.safetensors")

    def architecture(self, path: Path | None = None) -> ArchitectureFile:
        """Returns the architecture in ``path``; if it is None, the exported architecture.

        Raises:
            UserError: The file is missing, malformed, or belongs to another search space.
        """
        if path is None:
            path = self.context.folder / "export" / "architecture.json"
            if not path.exists():
                raise UserError("no architecture exported yet", where=path, remedy="run 'usdn-nas export' first")
        return read_architecture(path, within=self.context.space)

    def check(self) -> None:
        """Checks device, budget, data, weights and, if needed, the storage, before anything is written.

        Raises:
            UserError: One of them cannot be used, or the run would overwrite files that no run wrote.
        """
        check_places(self.context.folder)
        self.context.check()
        self._start  # noqa: B018
        settings = self.context.study.search
        planned(self.context.space, settings)
        if settings.exits == "exact" and len(self.context.space.candidates) > MAX_CANDIDATES:
            raise too_many_candidates(len(self.context.space.candidates))
        if not (self.ledger.is_done(self.search()) and self.ledger.is_done(self.export())):
            study_stage.check_search(self.context)

    def run(self, until: str = "report", *, repick: bool = False) -> bool:
        """Runs all stages in order, up to and including ``until`` (one of `STAGES`).

        Args:
            until: The last stage to run.
            repick: Matters if the user has exported another point of the same front than the study's ``[export]``
                picks. True: replace it by the point that the study picks. False: keep it.

        Returns:
            True if any stage ran.
        """
        self.check()
        self.context.describe()
        wanted = STAGES[: STAGES.index(until) + 1]
        ran = False
        for name in wanted:
            if name == "retrain":
                ran |= self._retrain_each(self.architecture())
            elif name == "evaluate":
                ran |= self.ledger.ensure(self.evaluate(self.architecture(), main=True))
            elif name == "export" and not repick and self._picked_by_hand():
                self.context.reporter.say("export: another point of the front was picked by hand, it stays")
            else:
                ran |= self.ledger.ensure(getattr(self, name)())
        return ran

    def _picked_by_hand(self) -> bool:
        """Returns True if the exported architecture is a point of the present front that the study does not pick."""
        record, stage = self.ledger.records.get("export"), self.export()
        if record is None:
            return False
        chosen = ("export", "search.tr", "trials")
        kept = {key: value for key, value in stage.inputs.items() if key not in chosen}
        kept |= {key: record["inputs"][key] for key in chosen if key in record["inputs"]}
        return kept != stage.inputs and self.ledger.is_done(replace(stage, inputs=kept))

    def _retrain_each(self, file: ArchitectureFile) -> bool:
        ran = False
        for index in range(len(self.retrain(file))):
            # The inputs of later stages depend on files of earlier stages, so the list is built again each time.
            ran |= self.ledger.ensure(self.retrain(file)[index])
        return ran

    def retrain_all(self, path: Path | None) -> ArchitectureFile:
        """Retrains the architecture in ``path`` (None: the exported one), after running the stages that it needs."""
        if path is None:
            self.run(until="retrain")
            return self.architecture()
        file = self.architecture(path)
        self.run(until="supernet" if self.context.study.retrain.init == "supernet" else "pretrain")
        self._retrain_each(file)
        return file

    def evaluate_all(self, path: Path | None) -> Path:
        """Evaluates the architecture in ``path`` (None: the exported one), and returns the path of the results."""
        if path is None:
            self.run(until="evaluate")
            return self.context.folder / "evaluation.json"
        file = self.retrain_all(path)
        self.run(until="supernet")
        stage = self.evaluate(file, main=False)
        self.ledger.ensure(stage)
        return self.context.folder / stage.outputs[0]
