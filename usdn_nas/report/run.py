"""Reads a run folder: each part when it is first asked for, typed, its schema checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from usdn_nas.architecture import Architecture, Bits
from usdn_nas.config import StudyConfig
from usdn_nas.errors import UserError, nearest
from usdn_nas.files import file_digest, read_json
from usdn_nas.records import ChainRecord
from usdn_nas.space import SearchSpace, SpaceSpec
from usdn_nas.validation import validate

__all__ = ["HISTORIES", "MissingPartError", "Run", "load_run"]

HISTORIES = ("pretrain", "supernet", "teacher", "retrain", "retrain-ce")
"""Trainings that leave a history, in the order they run."""

_RETRAINING = {"teacher": "teacher", "retrain": "kd", "retrain-ce": "ce"}


class MissingPartError(UserError):
    """A part of a run folder that its stage has not written yet."""


def load_run(path: Path | str) -> Run:
    """Opens the folder of a run, finished or not.

    Raises:
        UserError: ``path`` is no run folder: it holds no ``study.json``.
    """
    path = Path(path)
    if not (path / "study.json").is_file():
        what = "not a run folder: it holds no study.json" if path.is_dir() else "no such run folder"
        raise UserError(what, where=path, remedy=f"usdn-nas run STUDY --out {path} makes one")
    return Run(path)


class Run:
    """A run folder. Every property reads its file once, and raises `MissingPartError` where there is none yet.

    A file that was changed or damaged after its stage had finished is refused with a `UserError`.

    Args:
        path: The folder; `load_run` checks that it is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _part(self, relative: str, stage: str) -> Path:
        """Path of a part, which must be there and as its stage left it.

        Raises:
            MissingPartError: It is not there.
            UserError: Its content is not that of which ``stages.json`` holds the digest.
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
        """File -> digest, of all that finished stages wrote. Read anew each time, because a stage may run meanwhile."""
        path = self.path / "stages.json"
        records = read_json(path, "usdn-nas/stages/1")["stages"].values() if path.exists() else ()
        return {
            name: value for record in records if record["status"] == "done" for name, value in record["outputs"].items()
        }

    def _json(self, relative: str, stage: str, schema: str) -> dict[str, Any]:
        return read_json(self._part(relative, stage), schema)

    @cached_property
    def study(self) -> dict[str, Any]:
        """``study.json``: name, config, space, provenance."""
        return self._json("study.json", "run", "usdn-nas/study/1")

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["name"])

    @cached_property
    def config(self) -> StudyConfig:
        """The resolved settings."""
        return validate(StudyConfig, self.study["config"], where=f"{self.path / 'study.json'}: config")

    @cached_property
    def space(self) -> SearchSpace:
        """The search space, rebuilt from ``study.json`` and ``chain.json``."""
        spec = validate(SpaceSpec, self.study["space"], where=f"{self.path / 'study.json'}: space")
        chain = self._json("chain.json", "run", "usdn-nas/chain/1")["chain"]
        return SearchSpace(spec, ChainRecord.from_dict(chain))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """``search/trials.csv``: one row a trial; ``"W/A"`` in each group's column, NaN where a trial has no value."""
        types: dict[str, Any] = {"state": str} | {group.name: str for group in self.space.groups}
        return pd.read_csv(self._part("search/trials.csv", "search"), dtype=types)

    @cached_property
    def trial_seconds(self) -> dict[int, float]:
        """``search/seconds.csv``: number of each complete trial -> seconds that its evaluation took."""
        frame = pd.read_csv(self._part("search/seconds.csv", "search"))
        return dict(zip(frame["trial"].tolist(), frame["seconds"].tolist(), strict=True))

    @cached_property
    def engine(self) -> dict[str, Any]:
        """``search/engine.json``: how the supernet was run in the search.

        Keys: ``backend`` (``"float"`` or ``"integer"``), ``images`` (a batch), ``channels_last``, ``threads``.
        """
        return self._json("search/engine.json", "search", "usdn-nas/engine/1")

    @property
    def engine_text(self) -> str:
        """How the supernet was run in the search, in words."""
        try:
            engine = self.engine
        except MissingPartError:
            return "an engine that is not recorded"
        threads = "" if engine["threads"] is None else f", threads: {engine['threads']}"
        return f"the {engine['backend']} back end, {engine['images']} images a batch{threads}"

    @cached_property
    def front(self) -> pd.DataFrame:
        """``search/front.csv``: the Pareto front by rising BOPs, measured on the search split.

        Columns: ``trial`` (str, ``"12.3"``), ``accuracy`` (fraction), ``bops`` (average), ``relative_bops``,
        ``exits`` (tuple of names), ``thresholds`` (tuple of floats), one column a group (``"W/A"``).
        """
        text = {"trial": str, "exits": str, "thresholds": str} | {group.name: str for group in self.space.groups}
        numbers = {"accuracy": float, "bops": float, "relative_bops": float}
        path = self._part("search/front.csv", "search")
        try:
            frame = pd.read_csv(path, dtype=text, keep_default_na=False).astype(numbers)
            thresholds = [tuple(map(float, json.loads(cell))) for cell in frame["thresholds"]]
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"expected the columns of a Pareto front: {error}", where=path) from None
        frame["exits"] = pd.Series([tuple(filter(None, cell.split("+"))) for cell in frame["exits"]], dtype=object)
        frame["thresholds"] = pd.Series(thresholds, dtype=object)
        return frame

    def point(self, trial: str) -> Architecture:
        """The architecture of a point of the front, by its name.

        Raises:
            UserError: The front has no such point.
        """
        names = list(self.front["trial"])
        if trial not in names:
            raise UserError(f"the front has no point '{trial}'", where=self.path, remedy=nearest(trial, names))
        row = self.front.iloc[names.index(trial)]
        bits = {group.name: parse_bits(row[group.name]) for group in self.space.groups}
        return Architecture(bits, row["exits"], row["thresholds"], self.config.search.rule)

    @cached_property
    def architecture(self) -> dict[str, Any]:
        """``export/architecture.json``: the winner as the search chose it."""
        return self._json("export/architecture.json", "export", "usdn-nas/architecture/1")

    @cached_property
    def retrained(self) -> dict[str, Any]:
        """The retrained winner's ``architecture.json``: the same bits and exits, thresholds fitted anew."""
        return self._json(f"{self._retrain_folder}/kd/architecture.json", "retrain", "usdn-nas/architecture/1")

    @property
    def retrained_folder(self) -> Path:
        """Where the exported architecture is retrained, in ``teacher``, ``kd`` and ``ce``; there or not yet."""
        return self.path / self._retrain_folder

    @property
    def _retrain_folder(self) -> str:
        return f"retrain/{as_architecture(self.architecture).network_digest[:12]}"

    @property
    def winner(self) -> Architecture:
        """The winner with the thresholds it is used with: the refitted ones once it is retrained."""
        try:
            return as_architecture(self.retrained)
        except MissingPartError:
            return as_architecture(self.architecture)

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """``evaluation.json``: figures of the exported architecture on the test split.

        Raises:
            MissingPartError: It is not written yet, or what was exported since is another architecture.
        """
        found = self._json("evaluation.json", "evaluate", "usdn-nas/evaluation/2")
        if (self.path / "export/architecture.json").is_file():
            expected, got = self.architecture["digest"][:12], found["architecture_digest"][:12]
            if expected != got:
                raise MissingPartError(
                    f"is of architecture {got}, but {expected} is exported now",
                    where=self.path / "evaluation.json",
                    remedy=f"usdn-nas evaluate {self.path}",
                )
        return found

    @cached_property
    def ladder(self) -> dict[str, Any]:
        """``supernet/ladder.json``: the supernet at uniform bit-widths, on the search split."""
        return self._json("supernet/ladder.json", "supernet", "usdn-nas/ladder/1")

    @cached_property
    def diagnostics(self) -> dict[str, Any]:
        """``supernet/diagnostics.json``: the supernet's quantizers in training.

        Keys: ``quantizers``: for each ``layer``, ``tensor`` (``"weights"`` or ``"inputs"``), ``bits``, ``start``, and
        for each epoch ``step`` and, of weights, ``oscillating`` (share); ``collapsed``, ``stale``: what went wrong.
        """
        return self._json("supernet/diagnostics.json", "supernet", "usdn-nas/diagnostics/1")

    @cached_property
    def sensitivity(self) -> dict[str, Any]:
        """``search/sensitivity.json``: effects of each group's choices, and how much of the spread each group explains.

        Keys: ``trials`` (number), ``trade_offs`` (L weights of relative BOPs), ``groups``: for each ``name``,
        ``choices`` (C pairs (W, A)), ``accuracy`` (C effects on the accuracy without exits, fractions), ``value``
        (C x L effects on accuracy - trade-off x relative BOPs), ``importance`` (L shares of variance); and
        ``importance_of_accuracy``, one share a group.
        """
        return self._json("search/sensitivity.json", "search", "usdn-nas/sensitivity/1")

    @cached_property
    def stages(self) -> dict[str, Any]:
        """Stage name -> status, seconds, time it finished, in the order they ran."""
        return dict(self._json("stages.json", "run", "usdn-nas/stages/1")["stages"])

    def history(self, stage: str) -> pd.DataFrame:
        """A training's ``history.csv``: one row an epoch.

        Columns: ``epoch``, ``step``, ``loss``, ``lr``, ``seconds``, ``images_per_second``, and accuracies on the search
        split, ``accuracy_<exit>`` (of the supernet ``accuracy_<exit>@max`` and ``@min``: largest and smallest path).

        Args:
            stage: One of `HISTORIES`; the last three are those of the winner.
        """
        if stage not in HISTORIES:
            raise UserError(f"no such training stage: '{stage}'", remedy=nearest(stage, HISTORIES))
        if stage in _RETRAINING:
            return pd.read_csv(self._part(f"{self._retrain_folder}/{_RETRAINING[stage]}/history.csv", "retrain"))
        return pd.read_csv(self._part(f"{stage}/history.csv", stage))


def parse_bits(text: str) -> Bits:
    """``"3/4"`` -> (3, 4).

    Raises:
        UserError: ``text`` is something else.
    """
    w, slash, a = str(text).partition("/")
    if not (slash and w.isdigit() and a.isdigit()):
        raise UserError(f"expected bits as W/A, got {text!r}")
    return int(w), int(a)


def as_architecture(payload: Mapping[str, Any]) -> Architecture:
    """The frozen choice in the content of an ``architecture.json``."""
    bits = {group: (int(w), int(a)) for group, (w, a) in payload["bits"].items()}
    return Architecture(
        bits, tuple(payload["exits"]), tuple(map(float, payload["thresholds"])), payload.get("rule", "threshold")
    )
