"""Reads the CSV files of a run folder, and checks that rows are whole and that numbers are in their ranges."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from usdn_nas._util.errors import UserError, shown
from usdn_nas._util.parsing import read_regular

__all__ = ["read_csv", "read_pairs"]

_MAX_BYTES = 256 * 2**20
_MAX_CELL = 2**24

Range = tuple[float, float]


def read_csv(
    path: Path, numbers: Mapping[str, Range], texts: Sequence[str] = (), *, empty: bool = True, types: Any = None
) -> pd.DataFrame:
    """Reads a CSV file that this package wrote.

    Args:
        path: The file.
        numbers: Required columns of numbers, with the range of each. A name that ends in ``*`` stands for all columns
            that begin like it; at least one must be there.
        texts: Other required columns.
        empty: True if a number may be missing, as in the row of an unfinished trial. A missing number becomes NaN.
        types: Types of columns, in the form that pandas takes.

    Returns:
        A table with one row for each line. Empty texts are NaN if ``empty`` is True, otherwise ``""``.

    Raises:
        UserError: The file is missing or damaged, e.g. truncated.
    """
    text = read_regular(path, _MAX_BYTES)
    header = _check_rows(text, [*numbers, *texts], path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frame = pd.read_csv(io.StringIO(text), dtype=types, keep_default_na=empty)
    except (ValueError, OverflowError, MemoryError, Warning):
        raise UserError("expected a table of numbers, got something else", where=path) from None
    for pattern, limits in numbers.items():
        for column in fnmatch.filter(header, pattern):
            frame[column] = _numbers(frame[column], limits, empty, path)
    return frame


def _check_rows(text: str, columns: Sequence[str], path: Path) -> list[str]:
    """Refuses a file whose rows differ in length, whose last line is unfinished, or that lacks a required column.

    Returns:
        The names of the columns.
    """
    if not text.endswith("\n") or "\0" in text:
        raise UserError("expected a CSV file of whole lines; it is damaged or truncated", where=path)
    before = csv.field_size_limit(_MAX_CELL)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(rows, [])
        for name in columns:
            if not fnmatch.filter(header, name):
                raise UserError(f"expected a column {shown(name)}, got {shown(header)}", where=path)
        if len(set(header)) < len(header):
            raise UserError("a column is there twice", where=path)
        for row in rows:
            if len(row) != len(header):
                raise UserError(f"expected {len(header)} cells, got {len(row)} on line {rows.line_num}", where=path)
    except csv.Error:
        raise UserError(f"expected CSV, got something else on line {rows.line_num}", where=path) from None
    else:
        return header
    finally:
        csv.field_size_limit(before)


def _numbers(cells: pd.Series, limits: Range, empty: bool, path: Path) -> pd.Series:
    where = f"{path}: {cells.name}"
    found = pd.to_numeric(cells, errors="coerce").astype(float)
    for cell, number in zip(cells, found, strict=True):
        missing = empty and isinstance(cell, float) and math.isnan(cell)
        if not missing and not limits[0] <= number <= limits[1]:
            raise UserError(f"expected a number from {limits[0]:g} to {limits[1]:g}, got {shown(cell)}", where=where)
    return found


def read_pairs(cell: object, length: int | None, where: object) -> list[Any]:
    """Reads a cell that holds a JSON list of numbers, or, with a ``length``, a list of lists of ``length`` numbers.

    Raises:
        UserError: The cell holds something else.
    """
    try:
        found = json.loads(cell) if isinstance(cell, str) else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and all(_is_numbers(row, length) for row in ([found] if length is None else found)):
        return found
    raise UserError(f"expected a list of numbers, got {shown(cell)}", where=where)


def _is_numbers(row: object, length: int | None) -> bool:
    return (
        isinstance(row, list)
        and (length is None or len(row) == length)
        and all(type(x) in (int, float) and abs(x) < 1e30 for x in row)
    )
