"""Validates data with pydantic, and turns its errors into one line.

The line names the file, the dotted path, the expected value, the given value and a remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, Strict, ValidationError

from usdn_nas._util.errors import UserError, nearest, shown

__all__ = ["Name", "Pair", "Text", "validate", "validate_json"]

M = TypeVar("M", bound=BaseModel)

Pair = Strict(False)
"""Marks a tuple that may be given as a list, because TOML and JSON have only lists. Its members stay strict."""

Text = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\p{Cc}\x{202a}-\x{202e}\x{2066}-\x{2069}]*$")]
"""A text on one line, such as a path or a URL, without control characters and without Unicode marks that change the
direction of writing."""

Name = Annotated[Text, Field(max_length=200)]
"""A short text on one line."""

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "a text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
    "mapping": "a table",
    "none": "nothing",
}
"""First part of the type of a pydantic error -> the value that was expected, in words."""

_BOUNDS = {"greater_than": ("gt", ">"), "greater_than_equal": ("ge", ">="), "less_than": ("lt", "<")}
_BOUNDS |= {"less_than_equal": ("le", "<=")}

_LEVELS, _SUGGESTED = 6, 8
"""How deep tables are searched for a key, and how many keys a remedy names."""


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field of this type may hold, itself or as a member of a union."""
    return [m for m in (annotation, *get_args(annotation)) if isinstance(m, type) and issubclass(m, BaseModel)]


def _dotted_names(model: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[str]:
    """The full dotted name of every key of ``model`` and of its tables."""
    for name, field in model.model_fields.items():
        path = (*before, field.alias or name)
        yield ".".join(path)
        if len(path) < _LEVELS:
            for inner in _models(field.annotation)[:1]:
                yield from _dotted_names(inner, path)


def _remedy(model: type[BaseModel], location: tuple[int | str, ...], value: object) -> str | None:
    """Suggests a valid key in place of an unknown one: the full names that end so, else the nearest in its table."""
    parts = [str(location[-1])]
    while isinstance(value, Mapping) and len(value) == 1 and len(parts) < _LEVELS:  # --set train.epochs=3
        ((key, value),) = value.items()
        parts.append(str(key))
    ending = "." + ".".join(parts)
    if full := [name for name in _dotted_names(model) if f".{name}".endswith(ending)]:
        return f"did you mean {', '.join(full[:_SUGGESTED])}?"
    names = _field_names(model, location[:-1])
    return nearest(str(location[-1]), names) if names else None


def _field_names(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Returns the valid names at ``path`` below ``model``. Empty if there is no model at this path."""
    for part in path:
        names = {field.alias or name: field for name, field in model.model_fields.items()}
        annotation = names[str(part)].annotation if str(part) in names else None
        members = _models(annotation)
        if not members:
            return []
        model = members[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def _without_tags(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Returns only the keys of a location. pydantic adds the members of a union to it, such as ``tuple[int,int]``."""
    return tuple(part for part in location if isinstance(part, int) or not re.fullmatch(r"[a-z-]+\[.*\]", part))


def _expected(found: Mapping[str, Any]) -> str:
    """Returns a description of the expected value, in this package's words."""
    kind, context = found["type"], found.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return str(found["msg"]).split(", ", 1)[1]
    if kind in _BOUNDS:
        key, sign = _BOUNDS[kind]
        bound = context[key]
        return f"expected a number {sign} {bound:{',' if isinstance(bound, int) else 'g'}}"
    if kind in ("literal_error", "enum"):
        return f"expected {context['expected']}"
    if kind in ("too_short", "string_too_short"):
        things = "characters" if kind.startswith("string") else "values"
        return f"expected at least {context['min_length']} {things}"
    if kind in ("too_long", "string_too_long"):
        things = "characters" if kind.startswith("string") else "values"
        return f"expected at most {context['max_length']} {things}"
    if kind == "string_pattern_mismatch":
        return "expected a text without control characters"
    if kind == "finite_number":
        return "expected a finite number"
    if kind == "missing":  # a value of a list of fixed length is missing
        return "expected one more value"
    return f"expected {_WORDS.get(kind.split('_')[0], 'something else')}"


def validate(model: type[M], payload: object, where: object) -> M:
    """Builds ``model`` from ``payload``.

    Raises:
        UserError: ``payload`` does not fit. The message has the first error, with ``where`` (unless it is empty) and
            the dotted path.
    """
    with _in_our_words(model, where):
        return model.model_validate(payload)


def validate_json(model: type[M], payload: object, where: object) -> M:
    """Builds ``model`` from a value of JSON's own types. Lists stand for tuples, and tables for dataclasses.

    Raises:
        UserError: The same as for `validate`.
    """
    with _in_our_words(model, where):
        return model.model_validate_json(json.dumps(payload))


@contextmanager
def _in_our_words(model: type[BaseModel], where: object) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        # A mistyped key is reported first: it is the reason why another key is missing.
        first, *others = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
        location = _without_tags(first["loc"])
        place = ": ".join(filter(None, (str(where), ".".join(map(str, location)))))
        if first["type"] == "extra_forbidden":
            remedy = _remedy(model, location, first["input"])
            raise UserError(f"unknown key {shown(location[-1])}", where=place, remedy=remedy) from None
        if first["type"] == "missing" and not isinstance(location[-1], int):
            raise UserError("this key is missing", where=place) from None
        same_place = [first, *(other for other in others if _without_tags(other["loc"]) == location)]
        first_words, *more = dict.fromkeys(map(_expected, same_place))
        message = " or ".join([first_words, *(words.removeprefix("expected ") for words in more)])
        got = "" if isinstance(first["input"], Mapping) else f", got {shown(first['input'])}"
        raise UserError(f"{message}{got}", where=place) from None
