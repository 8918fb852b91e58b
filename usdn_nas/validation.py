"""Turns pydantic's findings into one line: the file, the dotted path, what was expected, what came, the remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from usdn_nas.errors import UserError, nearest

__all__ = ["validate"]

M = TypeVar("M", bound=BaseModel)


def _field_names(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Names valid at ``path`` below ``model``; empty where the path leaves the models."""
    for part in path:
        names = {field.alias or name: field for name, field in model.model_fields.items()}
        annotation = names[str(part)].annotation if str(part) in names else None
        members = [m for m in (annotation, *get_args(annotation)) if isinstance(m, type) and issubclass(m, BaseModel)]
        if not members:
            return []
        model = members[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _without_tags(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The keys of a location alone: pydantic also names the member of a union, as in ``tuple[int,int]``."""
    return tuple(part for part in location if isinstance(part, int) or not re.fullmatch(r"[a-z-]+\[.*\]", part))


def validate(model: type[M], payload: Mapping[str, Any], where: object) -> M:
    """Builds ``model`` from ``payload``.

    Raises:
        UserError: The first finding, with ``where`` and the dotted path.
    """
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        # A mistyped key before the one that is missing for it.
        first, *others = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        location = _without_tags(first["loc"])
        dotted = ".".join(str(part) for part in location)
        place = f"{where}: {dotted}" if dotted else where
        if first["type"] == "extra_forbidden":
            names = _field_names(model, location[:-1])
            remedy = nearest(str(location[-1]), names) if names else None
            raise UserError(f"unknown key '{location[-1]}'", where=place, remedy=remedy) from None
        if first["type"] == "missing":
            raise UserError("this key is missing", where=place) from None
        same_place = [first, *(other for other in others if _without_tags(other["loc"]) == location)]
        message = " or ".join(found["msg"].removeprefix("Value error, ") for found in same_place)
        got = "" if isinstance(first["input"], Mapping) else f", got {first['input']!r}"
        raise UserError(f"{message}{got}", where=place) from None
