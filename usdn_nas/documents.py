"""The JSON files of a run folder: each has one model, which checks it when it is written and when it is read.

Further keys are allowed, such as provenance. ``architecture.json`` has its own module, `usdn_nas.export.document`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from usdn_nas.errors import UserError
from usdn_nas.files import read_json, write_json
from usdn_nas.records import FINAL_EXIT, ChainRecord
from usdn_nas.validation import Name, validate_json

__all__ = [
    "ChainDocument",
    "DiagnosticsDocument",
    "EvaluationDocument",
    "LadderDocument",
    "SensitivityDocument",
    "StagesDocument",
    "StudyDocument",
    "read_document",
    "write_document",
]

Share = Annotated[float, Field(ge=0, le=1)]
"""An accuracy, a rate or another fraction."""
Bops = Annotated[float, Field(ge=0, le=1e30)]
Bits = tuple[Annotated[int, Field(ge=1, le=32)], Annotated[int, Field(ge=1, le=32)]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)


class _Document(_Part):
    schema_name: ClassVar[str]


class StudyDocument(_Document):
    """``study.json``: the resolved settings and the search space, whose own models check them."""

    schema_name = "usdn-nas/study/1"
    name: Name
    config: dict[str, Any]
    space: dict[str, Any]


class ChainDocument(_Document):
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


class _Stage(_Part):
    status: Literal["running", "done"]
    fingerprint: str
    inputs: dict[str, Any]
    extent: int | None = None
    seconds: NonNegativeFloat
    outputs: dict[str, str]


class StagesDocument(_Document):
    """``stages.json``: which stages ran, from which inputs, with which outputs."""

    schema_name = "usdn-nas/stages/1"
    stages: dict[str, _Stage]


class _Rung(_Part):
    bits: Bits
    bops: Bops
    accuracy: Share
    accuracy_exits: dict[str, Share]
    difference: float | None
    standard_error: NonNegativeFloat | None


class LadderDocument(_Document):
    """``ladder.json``: the supernet at uniform bit-widths."""

    schema_name = "usdn-nas/ladder/1"
    split: str
    n: PositiveInt
    rows: list[_Rung]
    monotone: bool

    @model_validator(mode="after")
    def _rows_of_the_same_exits(self) -> Self:
        if any(row.accuracy_exits.keys() != self.rows[0].accuracy_exits.keys() for row in self.rows):
            raise ValueError("expected the same exits in all rows")
        return self


class _Quantizer(_Part):
    layer: str
    tensor: Literal["weights", "inputs"]
    bits: PositiveInt
    start: Annotated[float, Field(gt=0)]
    step: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    oscillating: list[Share] | None = None

    @model_validator(mode="after")
    def _an_entry_for_each_epoch(self) -> Self:
        if (self.tensor == "weights") != (self.oscillating is not None):
            raise ValueError("expected 'oscillating' for weights, and for weights alone")
        if self.oscillating is not None and len(self.oscillating) != len(self.step):
            raise ValueError("expected as many entries in 'oscillating' as in 'step'")
        return self


class DiagnosticsDocument(_Document):
    """``diagnostics.json``: the supernet's quantizers in training."""

    schema_name = "usdn-nas/diagnostics/1"
    quantizers: list[_Quantizer]
    collapsed: list[str]
    stale: list[str]

    @model_validator(mode="after")
    def _of_the_same_epochs(self) -> Self:
        if len({len(one.step) for one in self.quantizers}) > 1:
            raise ValueError("expected as many entries in every 'step'")
        return self


class _Sensitivity(_Part):
    name: str
    choices: Annotated[list[Bits], Field(min_length=1)]
    accuracy: list[float]
    value: list[list[float]]
    importance: list[NonNegativeFloat]


class SensitivityDocument(_Document):
    """``sensitivity.json``: what each group's choices do."""

    schema_name = "usdn-nas/sensitivity/1"
    trials: PositiveInt
    trade_offs: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    importance_of_accuracy: list[NonNegativeFloat]
    groups: Annotated[list[_Sensitivity], Field(min_length=1)]

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        levels = len(self.trade_offs)
        if len(self.importance_of_accuracy) != len(self.groups):
            raise ValueError("expected one 'importance_of_accuracy' for each group")
        for group in self.groups:
            if {len(group.accuracy), len(group.value)} != {len(group.choices)}:
                raise ValueError(f"expected one 'accuracy' and one 'value' for each choice of group '{group.name}'")
            if {len(group.importance), *map(len, group.value)} != {levels}:
                raise ValueError(f"expected {levels} figures of group '{group.name}', one for each trade-off")
        return self


class _Policy(_Part):
    accuracy: Share
    average_bops: Bops
    relative_bops: Bops
    n: PositiveInt


class _Swept(_Policy):
    threshold: Share
    search: _Policy


class _Fitted(_Policy):
    tr: NonNegativeFloat
    thresholds: list[float]
    search: _Policy


class _Budgeted(_Policy):
    ratio: NonNegativeFloat
    thresholds: list[float]
    exit_rates: list[Share]
    search: _Policy


class _Leaving(_Part):
    exit: str
    threshold: float | None
    exit_rate: Share
    accuracy_leaving: Share | None
    cumulative_bops: Bops
    cost_share_bops: Bops


class _Bin(_Part):
    lo: Share
    hi: Share
    count: NonNegativeInt
    confidence: Share | None
    accuracy: Share | None

    @model_validator(mode="after")
    def _filled(self) -> Self:
        if self.count and (self.confidence is None or self.accuracy is None):
            raise ValueError("expected 'confidence' and 'accuracy' where 'count' is not 0")
        return self


class _Exit(_Leaving):
    accuracy: Share
    error: Share
    ece: Share
    mce: Share
    signed_gap: float
    auroc: Share | None
    n: PositiveInt
    bins: list[_Bin]


class _Shared(_Part):
    threshold: Share
    exits: list[_Leaving]
    policy: _Policy


class _Answers(_Part):
    ece: Share
    mce: Share
    signed_gap: float
    auroc: Share | None


class _Overthinking(_Part):
    wasteful: Share
    destructive: Share
    oracle_accuracy: Share
    oracle_bops: Bops
    first_right: list[Share]
    confusion_right: float | None
    confusion_wrong: float | None
    confusion_auroc: Share | None


class _Model(_Part):
    label: str
    precision: Literal["full", "quantized"]
    thresholds: list[float]
    temperatures: list[Annotated[float, Field(gt=0)]] | None
    exits: Annotated[list[_Exit], Field(min_length=1)]
    policy: _Policy
    answers: _Answers
    search_policy: _Policy
    shared: _Shared | None
    sweep: list[_Swept]
    fitted: list[_Fitted]
    budgeted: list[_Budgeted]
    overthinking: _Overthinking | None

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        exits = len(self.exits)
        lengths = [len(self.thresholds) + 1, *(len(row.thresholds) + 1 for row in self.fitted)]
        lengths += [length for row in self.budgeted for length in (len(row.thresholds) + 1, len(row.exit_rates))]
        lengths += [] if self.temperatures is None else [len(self.temperatures)]
        lengths += [] if self.shared is None else [len(self.shared.exits)]
        if any(length != exits for length in lengths):
            raise ValueError(f"expected figures of {exits} exits everywhere")
        return self


class _MeanBits(_Part):
    mean_weight_bits: Annotated[float, Field(ge=1, le=32)]
    mean_activation_bits: Annotated[float, Field(ge=1, le=32)]
    mac_weighted_weight_bits: Annotated[float, Field(ge=1, le=32)]
    mac_weighted_activation_bits: Annotated[float, Field(ge=1, le=32)]


class _BothBits(_Part):
    searched: _MeanBits
    all: _MeanBits


class _Change(_Part):
    exit: str
    metric: Literal["error", "ece", "mce"]
    ce: Share
    kd: Share
    change_percent: float | None


class EvaluationDocument(_Document):
    """``evaluation.json``: figures of every trained network on the test split."""

    schema_name = "usdn-nas/evaluation/2"
    split: str
    n: PositiveInt
    search_n: PositiveInt
    architecture_digest: str
    rule: Literal["threshold", "most-confident"]
    reference_bops: PositiveInt
    bits: _BothBits
    models: dict[str, _Model]
    table2: list[_Change]

    @model_validator(mode="after")
    def _has_the_retrained_network(self) -> Self:
        if "kd" not in self.models:
            raise ValueError("expected a model 'kd'")
        return self


D = TypeVar("D", bound=_Document)


def read_document(path: Path, model: type[D]) -> tuple[D, dict[str, Any]]:
    """Reads a file of a run folder.

    Returns:
        The typed content, and the same as JSON's own types.

    Raises:
        UserError: The file is missing, damaged, or not what ``model`` describes.
    """
    payload = read_json(path, model.schema_name)
    return validate_json(model, payload, where=path), payload


def write_document(path: Path, model: type[_Document], content: Mapping[str, Any]) -> None:
    """Writes a file of a run folder, atomically.

    Raises:
        ValueError: ``content`` is not what ``model`` describes, or holds a number that JSON lacks.
    """
    payload = {"schema": model.schema_name, **content}
    try:
        validate_json(model, payload, where=path)
    except UserError as error:
        raise ValueError(str(error)) from None
    write_json(path, payload)
