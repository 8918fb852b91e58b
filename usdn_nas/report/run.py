"""Reads a run folder. Each part is read when it is first used, and checked against its schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from usdn_nas._util.errors import UserError, nearest, shown
from usdn_nas._util.files import file_digest
from usdn_nas._util.validation import validate
from usdn_nas.config import StudyConfig
from usdn_nas.documents import (
    ArchitectureDocument,
    ChainDocument,
    DiagnosticsDocument,
    EngineDocument,
    EvaluationDocument,
    LadderDocument,
    SensitivityDocument,
    StagesDocument,
    StudyDocument,
    read_document,
)
from usdn_nas.documents.base import Document
from usdn_nas.report._csv import read_csv, read_pairs
from usdn_nas.space.architecture import Architecture, Bits
from usdn_nas.space.search_space import SearchSpace, SpaceSpec

__all__ = ["HISTORIES", "MissingPartError", "Run", "load_run"]

HISTORIES = ("pretrain", "supernet", "teacher", "retrain", "retrain-ce")
"""Trainings that write a history, in the order in which they run."""

_RETRAINING = {"teacher": "teacher", "retrain": "kd", "retrain-ce": "ce"}


_HISTORY = dict.fromkeys(("epoch", "step", "loss", "lr", "seconds", "images_per_second"), (0, 1e30))
_HISTORY |= {"accuracy_*": (0, 1)}
"""Columns of a training's history, with the range of their numbers."""

D = TypeVar("D", bound=Document)


class MissingPartError(UserError):
    """A part of a run folder that its stage has not written yet."""


def load_run(path: Path | str) -> Run:
    """Opens the folder of a run, which may be unfinished.

    Raises:
        UserError: ``path`` is not a run folder, because it holds no ``study.json``.
    """
    path = Path(path)
    if not (path / "study.json").is_file():
        what = "not a run folder: it holds no study.json" if path.is_dir() else "no such run folder"
        raise UserError(what, where=path, remedy=f"usdn-nas run STUDY --out {path} makes one")
    return Run(path)


class Run:
    """The results in a run folder.

    Every property reads its file once. It raises `MissingPartError` if the file does not exist yet, and `UserError` if
    the file was changed or damaged after its stage had finished.

    Args:
        path: The folder; `load_run` checks that it is a run folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _part(self, relative: str, stage: str) -> Path:
        """Returns the path of a part of the run, after checking that its stage's file is there and unchanged.

        Raises:
            MissingPartError: The file is not there.
            UserError: The digest of the file differs from the digest in ``stages.json``.
        """
        path = self.path / relative
        if not path.is_file():
            raise MissingPartError(
                "not written yet", where=path, remedy=f"stage '{stage}' writes it: usdn-nas {stage} {self.path}"
            )
        expected = self._digests().get(relative)
        if expected is not None and file_digest(path) != expected:
            raise UserError(
                f"was changed or damaged since stage '{stage}' wrote it",
                where=path,
                remedy=f"usdn-nas {stage} {self.path} writes it again",
            )
        return path

    def _digests(self) -> dict[str, str]:
        """Returns the digest of each file that finished stages wrote.

        ``stages.json`` is read again on every call, because a stage may be running.
        """
        path = self.path / "stages.json"
        stages = read_document(path, StagesDocument)[0].stages.values() if path.exists() else ()
        return {name: value for stage in stages if stage.status == "done" for name, value in stage.outputs.items()}

    def _json(self, relative: str, stage: str, model: type[D]) -> tuple[D, dict[str, Any]]:
        return read_document(self._part(relative, stage), model)

    @cached_property
    def study(self) -> dict[str, Any]:
        """``study.json``: name, settings, search space and provenance of the study."""
        return self._json("study.json", "run", StudyDocument)[1]

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["name"])

    @cached_property
    def config(self) -> StudyConfig:
        """The settings of the study, with defaults filled in."""
        return validate(StudyConfig, self.study["config"], where=f"{self.path / 'study.json'}: config")

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, rebuilt from ``study.json`` and ``chain.json``."""
        spec = validate(SpaceSpec, self.study["space"], where=f"{self.path / 'study.json'}: space")
        chain = self._json("chain.json", "run", ChainDocument)[0].chain
        network = spec.network
        if (chain.network, chain.input_shape, chain.num_classes) != (
            *(network.name, network.input_shape, network.num_classes),
        ):
            raise UserError("is of another network than study.json", where=self.path / "chain.json")
        return SearchSpace(spec, chain)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """``search/trials.csv``: one row a trial.

        Each group has a column of bits (``"W/A"``). Values that a trial does not have are NaN.
        """
        groups = [group.name for group in self.space.groups]
        path = self._part("search/trials.csv", "search")
        numbers = {"trial": (0, 2**53), "accuracy": (0, 1), "bops": (0, 1e30)}
        frame = read_csv(path, numbers, ["state", *groups], types=dict.fromkeys(["state", *groups], str))
        frame["trial"] = frame["trial"].astype(int)
        if "front" in frame:
            for cell in frame.loc[frame["accuracy"].notna(), "front"]:
                read_pairs(cell, 2, f"{path}: front")
        return frame

    @cached_property
    def trial_seconds(self) -> dict[int, float]:
        """``search/seconds.csv``: maps the number of each complete trial to the seconds that its evaluation took."""
        path = self._part("search/seconds.csv", "search")
        frame = read_csv(path, {"trial": (0, 2**53), "seconds": (0, 1e12)}).dropna()
        return dict(zip(frame["trial"].astype(int).tolist(), frame["seconds"].tolist(), strict=True))

    @cached_property
    def engine(self) -> dict[str, Any]:
        """``search/engine.json``: how the search ran the supernet.

        Keys: ``backend`` (``"float"`` or ``"integer"``), ``images`` (images in a batch), ``channels_last`` and
        ``threads``.
        """
        return self._json("search/engine.json", "search", EngineDocument)[1]

    @property
    def engine_text(self) -> str:
        """A description of how the search ran the supernet, for texts."""
        try:
            engine = self.engine
        except MissingPartError:
            return "an engine that is not recorded"
        threads = "" if engine["threads"] is None else f", threads: {engine['threads']}"
        return f"the {engine['backend']} back end, {engine['images']} images a batch{threads}"

    @cached_property
    def front(self) -> pd.DataFrame:
        """``search/front.csv``: the Pareto front, measured on the search split.

        Points are sorted by rising bit operations (BOPs). Columns: ``trial`` (str, such as ``"12.3"``), ``accuracy``
        (fraction), ``bops`` (average), ``relative_bops``, ``exits`` (tuple of names), ``thresholds`` (tuple of floats),
        and one column for each group (``"W/A"``).
        """
        texts = ["trial", "exits", "thresholds", *(group.name for group in self.space.groups)]
        path = self._part("search/front.csv", "search")
        numbers = {"accuracy": (0, 1), "bops": (0, 1e30), "relative_bops": (0, 1e30)}
        frame = read_csv(path, numbers, texts, empty=False, types=dict.fromkeys(texts, str))
        thresholds = [tuple(map(float, read_pairs(cell, None, f"{path}: thresholds"))) for cell in frame["thresholds"]]
        frame["exits"] = pd.Series([tuple(filter(None, cell.split("+"))) for cell in frame["exits"]], dtype=object)
        frame["thresholds"] = pd.Series(thresholds, dtype=object)
        for row in frame.to_dict("records"):
            self._check(self._bits(row), row["exits"], row["thresholds"], f"{path}: trial {row['trial']}")
        return frame

    def _bits(self, row: Mapping[Any, Any]) -> dict[str, Bits]:
        return {group.name: parse_bits(row[group.name]) for group in self.space.groups}

    def _check(
        self, bits: Mapping[str, Bits], exits: Sequence[str], thresholds: Sequence[float], where: object
    ) -> None:
        """Raises UserError if bits, exits and thresholds do not form a point of the search space."""
        if len(exits) != len(thresholds):
            raise UserError(f"{len(exits)} exits need as many thresholds, got {len(thresholds)}", where=where)
        self.space.check(Architecture(bits, tuple(exits), tuple(thresholds)), where)

    def point(self, trial: str) -> Architecture:
        """Returns the architecture of the point of the front that is named ``trial``.

        Raises:
            UserError: The front has no such point.
        """
        names = list(self.front["trial"])
        if trial not in names:
            raise UserError(f"the front has no point '{trial}'", where=self.path, remedy=nearest(trial, names))
        row = self.front.iloc[names.index(trial)]
        return Architecture(self._bits(row), row["exits"], row["thresholds"], self.config.search.rule)

    @cached_property
    def architecture(self) -> dict[str, Any]:
        """``export/architecture.json``: the winner, with the thresholds from the search."""
        return self._architecture("export/architecture.json", "export")

    @cached_property
    def retrained(self) -> dict[str, Any]:
        """The retrained winner's ``architecture.json``. Bits and exits are the winner's; thresholds are refitted."""
        return self._architecture(f"{self._retrain_folder}/kd/architecture.json", "retrain")

    def _architecture(self, relative: str, stage: str) -> dict[str, Any]:
        found, payload = self._json(relative, stage, ArchitectureDocument)
        self._check(found.bits, found.exits, found.thresholds, self.path / relative)
        return payload

    @property
    def retrained_folder(self) -> Path:
        """Folder in which the exported architecture is retrained, in ``teacher``, ``kd`` and ``ce``.

        The folder need not exist yet.
        """
        return self.path / self._retrain_folder

    @property
    def _retrain_folder(self) -> str:
        return f"retrain/{as_architecture(self.architecture).network_digest[:12]}"

    @property
    def winner(self) -> Architecture:
        """The winner; its thresholds are the refitted ones if it is retrained, otherwise those from the search."""
        try:
            return as_architecture(self.retrained)
        except MissingPartError:
            return as_architecture(self.architecture)

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """``evaluation.json``: figures of the exported architecture on the test split.

        Raises:
            MissingPartError: The file is not written yet, or another architecture was exported after it was written.
        """
        _, found = self._json("evaluation.json", "evaluate", EvaluationDocument)
        known = {exit_.name for exit_ in self.space.chain.exits}
        for name, model in found["models"].items():
            if unknown := [row["exit"] for row in model["exits"] if row["exit"] not in known]:
                where = f"{self.path / 'evaluation.json'}: models.{name}.exits"
                raise UserError(f"unknown exit {shown(unknown[0])}", where=where, remedy=nearest(unknown[0], known))
        if (self.path / "export/architecture.json").is_file():
            expected, got = as_architecture(self.architecture).digest[:12], found["architecture_digest"][:12]
            if expected != got:
                raise MissingPartError(
                    f"is of architecture {got}, but {expected} is exported now",
                    where=self.path / "evaluation.json",
                    remedy=f"usdn-nas evaluate {self.path}",
                )
        return found

    @cached_property
    def ladder(self) -> dict[str, Any]:
        """``supernet/ladder.json``: figures of the supernet at uniform bit-widths, on the search split."""
        return self._json("supernet/ladder.json", "supernet", LadderDocument)[1]

    @cached_property
    def diagnostics(self) -> dict[str, Any]:
        """``supernet/diagnostics.json``: how the supernet's quantizers developed during training.

        Keys: ``quantizers`` lists for each quantizer its ``layer``, ``tensor`` (``"weights"`` or ``"inputs"``),
        ``bits`` and initial step size ``start``; for each epoch the step size ``step`` and, for weights, the share
        ``oscillating``. ``collapsed`` names quantizers whose step size collapsed. ``stale`` names BatchNorm statistics
        that were never updated.
        """
        return self._json("supernet/diagnostics.json", "supernet", DiagnosticsDocument)[1]

    @cached_property
    def sensitivity(self) -> dict[str, Any]:
        """``search/sensitivity.json``: the effect of each group's choices, and how much variance each group explains.

        Keys: ``trials`` (number); ``trade_offs`` (L weights of relative BOPs); ``importance_of_accuracy`` (a share of
        variance for each group); and ``groups``. Each group has ``name``, ``choices`` (C pairs (W, A)), ``accuracy`` (C
        effects on the accuracy without exits, fractions), ``value`` (C x L effects on accuracy - trade-off x relative
        BOPs) and ``importance`` (L shares of variance).
        """
        _, found = self._json("search/sensitivity.json", "search", SensitivityDocument)
        theirs = [(group["name"], [tuple(pair) for pair in group["choices"]]) for group in found["groups"]]
        if theirs != [(group.name, list(group.choices)) for group in self.space.groups]:
            where = f"{self.path / 'search/sensitivity.json'}: groups"
            raise UserError("expected the groups and choices of the search space", where=where)
        return found

    @cached_property
    def stages(self) -> dict[str, Any]:
        """Maps the name of each stage to its status, seconds and finishing time, in the order in which stages ran."""
        return dict(self._json("stages.json", "run", StagesDocument)[1]["stages"])

    def history(self, stage: str) -> pd.DataFrame:
        """Returns ``history.csv`` of a training: one row an epoch.

        Columns: ``epoch``, ``step``, ``loss``, ``lr``, ``seconds``, ``images_per_second`` and ``accuracy_<exit>``, the
        accuracy on the search split. The supernet has ``accuracy_<exit>@max`` (largest path) and ``@min`` (smallest).

        Args:
            stage: One of `HISTORIES`. The last three of them are trainings of the winner.
        """
        if stage not in HISTORIES:
            raise UserError(f"no such training stage: '{stage}'", remedy=nearest(stage, HISTORIES))
        folder, writer = stage, stage
        if stage in _RETRAINING:
            folder, writer = f"{self._retrain_folder}/{_RETRAINING[stage]}", "retrain"
        path = self._part(f"{folder}/history.csv", writer)
        return read_csv(path, _HISTORY)


def parse_bits(text: str) -> Bits:
    """Returns the bits in a text: (3, 4) for ``"3/4"``.

    Raises:
        UserError: ``text`` has another form.
    """
    w, _, a = str(text).partition("/")
    if not re.fullmatch(r"[0-9]{1,2}/[0-9]{1,2}", str(text)):
        raise UserError(f"expected bits as W/A, got {shown(text)}")
    return int(w), int(a)


def as_architecture(payload: Mapping[str, Any]) -> Architecture:
    """Returns the architecture in the content of an ``architecture.json``."""
    bits = {group: (int(w), int(a)) for group, (w, a) in payload["bits"].items()}
    return Architecture(
        bits, tuple(payload["exits"]), tuple(map(float, payload["thresholds"])), payload.get("rule", "threshold")
    )
