"""Folders that all tests of a session read, made once however many processes the tests run in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Returns the folder ``name`` that ``make`` has filled.

    The first process that asks fills it, and the others wait for it. pytest-xdist gives each of its processes a folder
    of its own inside the one of the session.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / f"shared-{name}", base / f"shared-{name}.done"
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # another process failed half-way
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
