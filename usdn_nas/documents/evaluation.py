"""The model of ``evaluation.json``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from usdn_nas.documents.base import Bops, Document, Part, Share

__all__ = ["EvaluationDocument"]


class _Policy(Part):
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


class _Leaving(Part):
    exit: str
    threshold: float | None
    exit_rate: Share
    accuracy_leaving: Share | None
    cumulative_bops: Bops
    cost_share_bops: Bops


class _Bin(Part):
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


class _Shared(Part):
    threshold: Share
    exits: list[_Leaving]
    policy: _Policy


class _Answers(Part):
    ece: Share
    mce: Share
    signed_gap: float
    auroc: Share | None


class _Overthinking(Part):
    wasteful: Share
    destructive: Share
    oracle_accuracy: Share
    oracle_bops: Bops
    first_right: list[Share]
    confusion_right: float | None
    confusion_wrong: float | None
    confusion_auroc: Share | None


class _Model(Part):
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


class _MeanBits(Part):
    mean_weight_bits: Annotated[float, Field(ge=1, le=32)]
    mean_activation_bits: Annotated[float, Field(ge=1, le=32)]
    mac_weighted_weight_bits: Annotated[float, Field(ge=1, le=32)]
    mac_weighted_activation_bits: Annotated[float, Field(ge=1, le=32)]


class _BothBits(Part):
    searched: _MeanBits
    all: _MeanBits


class _Change(Part):
    exit: str
    metric: Literal["error", "ece", "mce"]
    ce: Share
    kd: Share
    change_percent: float | None


class EvaluationDocument(Document):
    """``evaluation.json``: the results of every trained network on the test split."""

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
