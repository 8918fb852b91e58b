"""Every setting of studies and search spaces with values that nobody means: refused in one line, numbers above all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from tests.cli.mutations import HOSTILE
from usdn_nas._util.errors import UserError
from usdn_nas._util.validation import validate
from usdn_nas.config import StudyConfig
from usdn_nas.space.search_space import SpaceSpec

NETWORK = {"name": "resnet_cifar", "input_shape": [1, 8, 8], "num_classes": 10}
WHOLE: dict[type[BaseModel], dict[str, Any]] = {
    StudyConfig: {"space": "digits"},
    SpaceSpec: {"network": NETWORK, "bits": {"choices": [[2, 2], [4, 4]]}},
}
NO_NUMBERS = (1e300, -1e300, 2**63, -1, float("nan"), float("inf"), True, "1", "", [], {}, [1, 2])


def settings(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Dotted path and type of every setting; those of tables come one by one."""
    for name, field in model.model_fields.items():
        members = [field.annotation, *get_args(field.annotation)]
        tables = [one for one in members if isinstance(one, type) and issubclass(one, BaseModel)]
        if tables:
            yield from settings(tables[0], (*path, name))
        yield (*path, name), field.annotation


CASES = [(model, path, kind) for model in WHOLE for path, kind in settings(model)]
NUMBERS = [(model, path) for model, path, kind in CASES if {int, float} & {kind, *get_args(kind)}]


def refusal(model: type[BaseModel], path: tuple[str, ...], value: Any) -> str | None:
    """The line with which a value is refused; None if it is accepted."""
    payload: dict[str, Any] = {key: dict(v) if isinstance(v, dict) else v for key, v in WHOLE[model].items()}
    table = payload
    for key in path[:-1]:
        table = table.setdefault(key, {"epochs": 9} if key in ("pretrain", "qat", "train", "teacher") else {})
    table[path[-1]] = value
    try:
        validate(model, payload, where="f")
    except UserError as error:
        line = str(error)
        assert line.startswith("f: ") and line.isprintable() and len(line) < 500 and "Input should" not in line
        return line
    return None


@pytest.mark.parametrize(("model", "path"), NUMBERS, ids=lambda part: part if isinstance(part, str) else None)
def test_every_number_has_bounds_and_is_a_number(model: type[BaseModel], path: tuple[str, ...]) -> None:
    for value in NO_NUMBERS:
        line = refusal(model, path, value)
        assert line is not None and ".".join(path) in line, value


def test_there_are_many_numbers() -> None:
    assert len(NUMBERS) > 60


@pytest.mark.parametrize("model", WHOLE)
def test_any_value_is_accepted_or_refused_in_one_line(model: type[BaseModel]) -> None:
    refused = [refusal(model, path, value) is not None for one, path, _ in CASES for value in HOSTILE if one is model]
    assert sum(refused) > 0.7 * len(refused)
