"""Outputs of every bit configuration of a run's supernet, made once and kept on disk: what `truth.py` looks up."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track

from usdn_nas._util.files import digest, file_digest, write_json
from usdn_nas.engine.engine import Engine, EngineSettings, choose_settings
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.pipeline.context import Context
from usdn_nas.space.architecture import Bits
from usdn_nas.study.parameters import bits_of, configuration

SCHEMA = "usdn-nas/benchmark-outputs/1"
CHUNK = 256

SplitName = Literal["search", "test"]


@dataclass
class Enumerated:
    """(confidence, correct) of all configurations, in prefix order, on one split.

    Args:
        context: An opened run folder with a trained supernet.
        split: Which images.
        folder: Where the arrays are, or will be.
    """

    context: Context
    split: SplitName
    folder: Path

    def __post_init__(self) -> None:
        space, data = self.context.space, self.context.data
        self.count = space.bit_configurations
        self.names = tuple(exit_.name for exit_ in space.chain.exits)
        self.samples = len(getattr(data, self.split))
        self.digest = digest(
            {
                "space": space.digest,
                "supernet": file_digest(self.context.folder / "supernet" / "weights.safetensors"),
                "data": data.digest,
                "split": self.split,
            }
        )

    @property
    def _record(self) -> Path:
        return self.folder / f"{self.split}.json"

    @cached_property
    def record(self) -> dict[str, Any]:
        """How far the enumeration is, and what it took."""
        if self._record.is_file():
            found: dict[str, Any] = json.loads(self._record.read_text())
            if found["digest"] == self.digest:
                return found
        return {"schema": SCHEMA, "digest": self.digest, "done": 0, "seconds": 0.0, "segment_runs": 0.0}

    def _array(self, name: str, dtype: type, width: int, exits: int, mode: Literal["r", "r+", "w+"]) -> np.memmap:
        path = self.folder / f"{self.split}.{name}"
        return np.memmap(path, dtype=dtype, mode=mode, shape=(self.count, exits, width))

    def _arrays(self, mode: Literal["r", "r+", "w+"]) -> tuple[np.memmap, np.memmap]:
        confidence = self._array("confidence", np.float32, self.samples, len(self.names), mode)
        return confidence, self._array("correct", np.uint8, -(-self.samples // 8), len(self.names), mode)

    @cached_property
    def _loaded(self) -> tuple[np.memmap, np.memmap]:
        return self._arrays("r")

    def bits(self, number: int) -> dict[str, Bits]:
        """Group name -> (W, A) of configuration ``number`` in prefix order."""
        return bits_of(self.context.space, configuration(self.context.space, number))

    def outputs(self, number: int) -> ExitOutputs:
        """Of configuration ``number``."""
        confidence, correct = self._loaded
        right = np.unpackbits(correct[number], axis=1, count=self.samples).astype(np.bool_)
        return ExitOutputs(np.array(confidence[number]), right, self.names)

    def complete(self, settings: EngineSettings | None = None, memory_bytes: int = 2 << 30) -> None:
        """Runs what is missing. Killed, it goes on from the last chunk."""
        if self.record["done"] == self.count:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        batches = self.context.search_batches if self.split == "search" else self.context.test_batches
        supernet = self.context.supernet()
        settings = settings or choose_settings(supernet)
        engine = Engine(supernet, batches, settings, memory_bytes=memory_bytes)
        confidence, correct = self._arrays("r+" if self.record["done"] else "w+")
        done = self.record["done"]
        for start in track(range(done, self.count, CHUNK), f"enumerating, {self.split} images"):
            began, runs = time.perf_counter(), engine.runs
            numbers = range(start, min(start + CHUNK, self.count))
            for index, found in engine.run([self.bits(number) for number in numbers]):
                confidence[numbers[index]] = found.confidence
                correct[numbers[index]] = np.packbits(found.correct, axis=1)
            confidence.flush()
            correct.flush()
            self.record["done"] = numbers[-1] + 1
            self.record["seconds"] += time.perf_counter() - began
            self.record["segment_runs"] += engine.runs - runs
            self.record["engine"] = {"backend": settings.backend, "images": settings.images}
            write_json(self._record, self.record)
