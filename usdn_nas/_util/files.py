"""Reads and writes files: text, TOML, and JSON with a schema. Writes are atomic. It also computes digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from usdn_nas._util.errors import UserError, shown
from usdn_nas._util.parsing import MAX_JSON_BYTES, MAX_TOML_BYTES, parse_json, parse_toml, read_regular
from usdn_nas._util.writing import atomic_path

__all__ = [
    "canonical_json",
    "digest",
    "file_digest",
    "read_json",
    "read_toml",
    "write_json",
    "write_text",
]


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, payload: dict[str, Any]) -> None:
    """Writes ``payload`` as indented JSON, atomically.

    Raises:
        ValueError: ``payload`` has no ``schema`` key, or holds NaN or infinity, which JSON does not have.
    """
    if "schema" not in payload:
        raise ValueError(f"{path}: a written file needs a 'schema'")
    write_text(path, json.dumps(payload, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, schema: str) -> dict[str, Any]:
    """Reads a JSON file whose ``schema`` must be ``schema`` (``"usdn-nas/<kind>/<version>"``).

    Raises:
        UserError: The file is missing, is not JSON, or has another schema.
    """
    payload = parse_json(read_regular(Path(path), MAX_JSON_BYTES), path)
    if not isinstance(payload, dict) or payload.get("schema") != schema:
        found = payload.get("schema") if isinstance(payload, dict) else type(payload).__name__
        raise UserError(f"expected schema '{schema}', got {shown(found)}", where=path)
    return payload


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        UserError: The file is missing or is not TOML.
    """
    return parse_toml(read_regular(Path(path), MAX_TOML_BYTES), path)


def canonical_json(value: Any) -> str:
    """Returns ``value`` as JSON with sorted keys and no spaces, so that equal values give the same text.

    ``value`` consists of JSON's own types.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Returns the SHA-256 (hex) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Returns the SHA-256 (hex) of the bytes of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
