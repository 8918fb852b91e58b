"""What the models of JSON files have in common: types, and how files are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from usdn_nas._util.errors import UserError
from usdn_nas._util.files import read_json, write_json
from usdn_nas._util.validation import validate_json

__all__ = ["Bits", "Bops", "Document", "Part", "Share", "read_document", "write_document"]

Share = Annotated[float, Field(ge=0, le=1 + 1e-9)]
"""An accuracy, a rate or another fraction."""
Bops = Annotated[float, Field(ge=0, le=1e30)]
Bits = tuple[Annotated[int, Field(ge=1, le=32)], Annotated[int, Field(ge=1, le=32)]]


class Part(BaseModel):
    """A part of a file: strict types, finite numbers, further keys allowed."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)


class Document(Part):
    """A whole file, whose ``schema`` is ``schema_name``."""

    schema_name: ClassVar[str]


D = TypeVar("D", bound=Document)


def read_document(path: Path, model: type[D]) -> tuple[D, dict[str, Any]]:
    """Reads a file of a run folder.

    Returns:
        The typed content, and the same as JSON's own types.

    Raises:
        UserError: The file is missing, damaged, or not what ``model`` describes.
    """
    payload = read_json(path, model.schema_name)
    return validate_json(model, payload, where=path), payload


def write_document(path: Path, model: type[Document], content: Mapping[str, Any]) -> None:
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
