"""Models of files about a whole run: settings, network, stages, engine, and the chosen architecture."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from usdn_nas._util.validation import Name
from usdn_nas.documents.base import Bits, Bops, Document, Part, Share
from usdn_nas.space.architecture import Architecture, Rule
from usdn_nas.space.records import FINAL_EXIT, ChainRecord

__all__ = ["ArchitectureDocument", "ChainDocument", "StagesDocument", "StudyDocument"]


class StudyDocument(Document):
    """``study.json``: the resolved settings and the search space. Each is checked by a model of its own elsewhere."""

    schema_name = "usdn-nas/study/1"
    name: Name
    config: dict[str, Any]
    space: dict[str, Any]


class ChainDocument(Document):
    """``chain.json``: the layers, segments and exits of the network."""

    schema_name = "usdn-nas/chain/1"
    chain: ChainRecord

    @model_validator(mode="after")
    def _is_a_chain(self) -> Self:
        chain = self.chain
        exits = [exit_.name for exit_ in chain.exits]
        if not exits or exits[-1] != FINAL_EXIT:
            raise ValueError(f"expected the exit '{FINAL_EXIT}' to be the last")
        if any(not 0 <= exit_.segment < len(chain.segments) for exit_ in chain.exits):
            raise ValueError(f"expected every exit to follow one of the {len(chain.segments)} segments")
        if any(min(layer.macs, layer.weights, layer.feature_count) < 0 for layer in chain.layers()):
            raise ValueError("expected no negative number of a layer")
        for names in (exits, [segment.name for segment in chain.segments], [layer.name for layer in chain.layers()]):
            if len(set(names)) < len(names):
                raise ValueError("expected different names of layers, of segments and of exits")
        return self


class _Stage(Part):
    status: Literal["running", "done"]
    fingerprint: str
    inputs: dict[str, Any]
    extent: int | None = None
    seconds: NonNegativeFloat
    outputs: dict[str, str]


class _Moves(Part):
    """Folders that will be renamed or deleted. `usdn_nas.pipeline.stagefile` says when."""

    key: str
    away: str | None = None
    back: str | None = None
    drop: tuple[str, ...] = ()
    checkpoint: bool = False


class StagesDocument(Document):
    """``stages.json``: which stages ran, from which inputs, with which outputs."""

    schema_name = "usdn-nas/stages/1"
    stages: dict[str, _Stage]
    aside: dict[str, dict[str, dict[str, _Stage]]] = Field(default={})
    moves: _Moves | None = None


class EngineDocument(Document):
    """``engine.json``: the settings with which a search ran the supernet."""

    schema_name = "usdn-nas/engine/1"
    backend: Literal["float", "integer"]
    images: PositiveInt
    channels_last: bool
    threads: PositiveInt | None = None


class Metrics(Part):
    """Metrics of an architecture, measured when it was chosen."""

    n: PositiveInt
    accuracy: Share
    average_bops: Bops


class Source(Part):
    """The trial that an architecture comes from."""

    trial: str | None = None


class ArchitectureDocument(Document):
    """The part of ``architecture.json`` that a report needs. `usdn_nas.export.document` has the whole model."""

    schema_name = "usdn-nas/architecture/1"
    bits: dict[str, Bits]
    exits: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    rule: Rule = "threshold"
    digest: str | None = None
    metrics: Metrics | None = None
    source: Source | None = None

    @property
    def architecture(self) -> Architecture:
        """The architecture itself. `SearchSpace.check` tells whether it belongs to a search space."""
        return Architecture(self.bits, self.exits, self.thresholds, self.rule)
