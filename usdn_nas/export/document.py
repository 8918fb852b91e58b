"""Reads and writes ``architecture.json``: one architecture with its derived figures.

Only ``schema``, ``space``, ``bits``, ``exits`` and ``thresholds`` are required, and ``rule`` if it is SDN's rule. The
derived figures, such as bit operations (BOPs), are recomputed when the file is read. If the file holds them, they must
agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from usdn_nas._util.errors import UserError, shown
from usdn_nas._util.files import write_json
from usdn_nas._util.trust import check_network
from usdn_nas._util.units import cost
from usdn_nas.documents import ArchitectureDocument, read_document
from usdn_nas.export.summary import DataSummary
from usdn_nas.networks.build import build_network, chain_record
from usdn_nas.space.architecture import Architecture
from usdn_nas.space.cost import exit_costs, full_bops, layer_table, mean_bits, reference_bops
from usdn_nas.space.search_space import SearchSpace, SpaceSpec

__all__ = ["SCHEMA", "ArchitectureFile", "Objective", "read_architecture", "without_weights", "write_architecture"]

SCHEMA = ArchitectureDocument.schema_name


class Objective(BaseModel):
    """The quantity that fitting thresholds maximizes.

    It is accuracy - ``tr`` x relative BOPs, or the accuracy with at most ``budget_bops`` average BOPs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    mode: Literal["tr", "budget"]
    tr: float | None = Field(default=None, ge=0, le=1e6)
    budget_bops: float | None = Field(default=None, gt=0, le=1e18)

    @model_validator(mode="after")
    def _its_own_figure(self) -> Objective:
        if (self.tr is None) == (self.mode == "tr") or (self.budget_bops is None) == (self.mode == "budget"):
            raise ValueError("mode 'tr' needs 'tr' alone, mode 'budget' needs 'budget_bops' alone")
        return self


class _Document(ArchitectureDocument):
    model_config = ConfigDict(extra="forbid")

    schema_: str = Field(alias="schema")
    space: SpaceSpec
    objective: Objective | None = None
    provenance: dict[str, Any] | None = None
    data: DataSummary | None = None
    space_digest: str | None = None
    layers: list[dict[str, Any]] | None = None
    cost: dict[str, Any] | None = None


@dataclass(frozen=True)
class ArchitectureFile:
    """An ``architecture.json`` that was read and checked."""

    space: SearchSpace
    architecture: Architecture
    objective: Objective | None
    metrics: dict[str, Any] | None
    source: dict[str, Any] | None
    provenance: dict[str, Any] | None
    data: dict[str, Any] | None


def derived(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """Returns the figures that follow from space and architecture alone: digests, the table of layers, costs."""
    rows = layer_table(space, architecture)
    costs = exit_costs(space, architecture.bits).placed(architecture.exits)
    return {
        "space_digest": space.digest,
        "digest": architecture.digest,
        "layers": rows,
        "cost": {
            "exits": [
                {"exit": name, "chain_bops": int(chain), "head_bops": int(head), "cumulative_bops": int(total)}
                for name, chain, head, total in zip(
                    costs.names, costs.chain, costs.heads, costs.cumulative, strict=True
                )
            ],
            "full_bops": full_bops(space, architecture.bits),
            "reference_bops": reference_bops(space),
            "bits": {
                "searched": mean_bits([row for row in rows if row["group"] is not None]),
                "all": mean_bits(rows),
            },
        },
    }


def write_architecture(
    path: Path,
    space: SearchSpace,
    architecture: Architecture,
    *,
    objective: Objective | None,
    metrics: Mapping[str, Any] | None,
    source: Mapping[str, Any] | None,
    provenance: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Writes an architecture with everything derived from it.

    Args:
        objective: What its thresholds are refitted to; None if not known.
        metrics: ``split``, and ``n``, ``accuracy``, ``average_bops`` and ``exit_rates`` measured on that split.
        source: Where the architecture came from, e.g. ``{"trial": "12.3"}``.
        provenance: Versions and settings under which it was made.
        data: ``name``, ``mean`` and ``std`` of each channel, and ``class_names``.
    """
    document = {
        "schema": SCHEMA,
        "space": space.spec.model_dump(mode="json"),
        **architecture.to_dict(),
        **derived(space, architecture),
        "objective": objective.model_dump(mode="json") if objective else None,
        "metrics": dict(metrics) if metrics else None,
        "source": dict(source) if source else None,
        "provenance": dict(provenance),
        "data": dict(data) if data else None,
    }
    average = None if metrics is None else metrics["average_bops"]
    document["cost"]["average_bops"] = average
    document["cost"]["relative_bops"] = None if average is None else average / document["cost"]["reference_bops"]
    write_json(path, document)


def read_architecture(
    path: Path | str,
    within: SearchSpace | None = None,
    *,
    model: nn.Module | None = None,
    trust_code: bool = False,
) -> ArchitectureFile:
    """Reads an architecture, searched or handwritten.

    To check the file, the network of its search space is built. This reads no other file, and it runs code that the
    file names only if ``trust_code`` is True.

    Args:
        within: The search space that the architecture must belong to. None: the space described in the file.
        model: The model that the search space was made for, if it was passed in Python.
        trust_code: Accept a network given as user code (``package.module:function``), and run that code.

    Raises:
        ConsentError: The network is user code, and ``trust_code`` is False.
        UserError: The file is missing or malformed, belongs to another search space, describes an architecture outside
            its space, or holds derived figures that do not follow from the architecture.
    """
    path = Path(path)
    document, payload = read_document(path, _Document)
    if within is not None and document.space != within.spec:
        ours, theirs = within.spec.model_dump(mode="json"), document.space.model_dump(mode="json")
        raise UserError(f"architecture of another search space: {_difference(ours, theirs)}", where=path)
    if within is None and model is None:
        check_network(document.space.network.name, where=f"{path}: space.network.name", trust_code=trust_code)
    space = within or _resolved(document.space, model)
    if document.data is not None:
        document.data.check(document.space.network, where=f"{path}: data")
    if len(document.exits) != len(document.thresholds):
        raise UserError(
            f"{len(document.exits)} exits need as many thresholds, got {len(document.thresholds)}",
            where=f"{path}: thresholds",
        )
    architecture = document.architecture
    space.check(architecture, where=path)
    expected = derived(space, architecture)
    least = expected["cost"]["exits"][0]["cumulative_bops"]
    budget = document.objective.budget_bops if document.objective else None
    if budget is not None and budget < least:
        raise UserError(
            f"no thresholds meet {cost(budget, 6)} on average",
            where=f"{path}: objective.budget_bops",
            remedy=f"leaving at its first exit costs {cost(least, 6)}",
        )
    for key in ("space_digest", "digest", "layers", "cost"):
        given = getattr(document, key)
        if given is not None and not _agrees(given, expected[key]):
            raise UserError(
                f"'{key}' does not follow from the architecture's space, bits, exits and thresholds",
                where=f"{path}: {key}",
                remedy="remove it, it is recomputed",
            )
    return ArchitectureFile(
        space,
        architecture,
        document.objective,
        payload.get("metrics"),
        payload.get("source"),
        document.provenance,
        document.data.model_dump(mode="json", exclude_unset=True) if document.data else None,
    )


def without_weights(spec: SpaceSpec) -> SpaceSpec:
    """Returns ``spec`` without its file of pretrained weights, which users of an architecture file do not have."""
    return spec.model_copy(update={"network": spec.network.model_copy(update={"weights": None})})


def _resolved(spec: SpaceSpec, model: nn.Module | None) -> SearchSpace:
    network = build_network(without_weights(spec), model)
    return SearchSpace(spec, chain_record(network, spec.network))


def _agrees(given: Any, expected: Any) -> bool:
    """Returns True if ``given`` holds every expected value.

    Floats may differ by rounding. Additional keys, such as measured figures, are ignored.
    """
    if isinstance(expected, dict):
        return isinstance(given, dict) and all(key in given and _agrees(given[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return isinstance(given, list) and len(given) == len(expected) and all(map(_agrees, given, expected))
    if isinstance(expected, float):
        return isinstance(given, int | float) and bool(np.isclose(given, expected, rtol=1e-9))
    return bool(given == expected)


def _difference(ours: Any, theirs: Any, path: str = "") -> str:
    """Describes the first difference between two values: its dotted path and both values there."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                return _difference(ours.get(key), theirs.get(key), f"{path}.{key}" if path else key)
    return f"{path} is {shown(theirs)} there, {shown(ours)} here"
