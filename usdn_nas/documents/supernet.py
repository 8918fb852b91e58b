"""Models of files about a supernet: its accuracy at uniform bits, its quantizers, the effects of choices."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from usdn_nas.documents.base import Bits, Bops, Document, Part, Share

__all__ = ["DiagnosticsDocument", "LadderDocument", "SensitivityDocument"]


class _Rung(Part):
    bits: Bits
    bops: Bops
    accuracy: Share
    accuracy_exits: dict[str, Share]
    difference: float | None
    standard_error: NonNegativeFloat | None


class LadderDocument(Document):
    """``ladder.json``: accuracy and cost of the supernet at uniform bit-widths."""

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


class _Quantizer(Part):
    layer: str
    tensor: Literal["weights", "inputs"]
    bits: PositiveInt
    start: NonNegativeFloat
    step: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    oscillating: list[Share] | None = None

    @model_validator(mode="after")
    def _an_entry_for_each_epoch(self) -> Self:
        if (self.tensor == "weights") != (self.oscillating is not None):
            raise ValueError("expected 'oscillating' for weights, and for weights alone")
        if self.oscillating is not None and len(self.oscillating) != len(self.step):
            raise ValueError("expected as many entries in 'oscillating' as in 'step'")
        return self


class DiagnosticsDocument(Document):
    """``diagnostics.json``: how the supernet's quantizers developed during training."""

    schema_name = "usdn-nas/diagnostics/1"
    quantizers: list[_Quantizer]
    collapsed: list[str]
    stale: list[str]

    @model_validator(mode="after")
    def _of_the_same_epochs(self) -> Self:
        if len({len(one.step) for one in self.quantizers}) > 1:
            raise ValueError("expected as many entries in every 'step'")
        return self


class _Sensitivity(Part):
    name: str
    choices: Annotated[list[Bits], Field(min_length=1)]
    accuracy: list[float]
    value: list[list[float]]
    importance: list[NonNegativeFloat]


class SensitivityDocument(Document):
    """``sensitivity.json``: the effect of each group's choices, and the share of the variance that it explains."""

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
