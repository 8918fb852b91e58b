"""Fresh searches of one study, each in a new folder: they give one set of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storms.children import Child, command, run
from storms.study import STUDY, contents, hooks, write_study

__all__ = ["repeat"]

BUSY = 2
"""Processes that keep the processors busy under every other search, so that what is measured by the clock differs."""

LARGER = STUDY.replace('backend = "float"\n', 'backend = "auto"\n').replace(
    "configurations = 6\nbatch = 3", "configurations = 24\nbatch = 4"
)


def repeat(times: int, limit: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs the tiny study ``times`` times up to the search, with the back end chosen by itself."""
    found: list[dict[str, Any]] = []
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="storm-repeat-") as name:
        for number in range(times):
            folder = Path(name) / str(number)
            write_study(folder, LARGER)
            burners = [Child(_burn, folder, limit) for _ in range(BUSY if number % 2 else 0)]
            ended = run(command("search", "studies/tiny.toml", "--quiet"), folder, limit, hooks)
            for burner in burners:
                burner.kill()
                burner.wait()
            if ended.status:
                failed.append(f"search {number}: status {ended.status}: {ended.stderr[-500:]}")
            found.append(contents(folder / "runs/tiny"))
            say(f"repeat: {number + 1} of {times}")
    differ = sorted({key for one in found for key in {*one, *found[0]} if one.get(key) != found[0].get(key)})
    sets: list[dict[str, Any]] = []
    for one in found:
        if one not in sets:
            sets.append(one)
    findings = failed + [f"{name} differs" for name in differ]
    return {"n": times, "sets of files": len(sets), "passed": len(sets) == 1 and not failed, "findings": findings}


def _burn() -> None:
    os.nice(0)
    value = 1.0
    while True:
        value = value * 1.0000001 % 3
