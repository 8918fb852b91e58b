"""The base of the models of JSON files: common types, and functions that read and write the files."""

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
"""An accuracy, a rate or another fraction, with a tolerance for rounding above 1."""
Bops = Annotated[float, Field(ge=0, le=1e30)]
Bits = tuple[Annotated[int, Field(ge=1, le=32)], Annotated[int, Field(ge=1, le=32)]]


class Part(BaseModel):
    """Base class for a part of a file. Types are strict, numbers are finite, and further keys are allowed."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)


class Document(Part):
    """Base class for a whole file. Its key ``schema`` must be ``schema_name``."""

    schema_name: ClassVar[str]


D = TypeVar("D", bound=Document)


def read_document(path: Path, model: type[D]) -> tuple[D, dict[str, Any]]:
    """Reads a file of a run folder.

    Returns:
        The content as a model, and the same content in JSON's own types.

    Raises:
        UserError: The file is missing or damaged, or does not fit ``model``.
    """
    payload = read_json(path, model.schema_name)
    return validate_json(model, payload, where=path), payload


def write_document(path: Path, model: type[Document], content: Mapping[str, Any]) -> None:
    """Writes a file of a run folder, atomically.

    Raises:
        ValueError: ``content`` does not fit ``model``, or holds NaN or infinity, which JSON does not have.
    """
    payload = {"schema": model.schema_name, **content}
    try:
        validate_json(model, payload, where=path)
    except UserError as error:
        raise ValueError(str(error)) from None
    write_json(path, payload)
