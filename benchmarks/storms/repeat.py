"""Fresh searches of the digits demo, each in a new folder: they give one set of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storms.children import Child, Job, command, run_all
from storms.study import contents, hooks

__all__ = ["repeat"]

AT_ONCE = 2


def repeat(times: int, limit: float, say: Callable[[str], None], settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Searches ``times`` times, from pre-training on, with the back end that the search chooses by itself.

    Two run at a time. A process that only counts keeps a processor busy under every other pair, so that what a search
    measures by the clock differs from pair to pair.
    """
    found: list[dict[str, Any]] = []
    failed: list[str] = []
    arguments = ["search", "digits", "--quiet", *(part for one in settings for part in ("--set", one))]
    with tempfile.TemporaryDirectory(prefix="storm-repeat-") as name:
        for pair in range(0, times, AT_ONCE):
            burner = Child(_count, Path(name), limit) if pair // AT_ONCE % 2 else None
            for job, ended in run_all(_jobs(arguments, Path(name), range(pair, min(pair + AT_ONCE, times))), limit, 2):
                if ended.status:
                    failed.append(f"{job.folder.name}: status {ended.status}: {ended.stderr[-500:]}")
                found.append(contents(job.folder / "runs/digits"))
                say(f"repeat: {len(found)} of {times}, {ended.seconds:.0f} s")
            if burner is not None:
                burner.kill()
                burner.wait()
    differ = sorted({key for one in found for key in {*one, *found[0]} if one.get(key) != found[0].get(key)})
    sets: list[dict[str, Any]] = []
    for one in found:
        if one not in sets:
            sets.append(one)
    findings = failed + [f"{name} differs" for name in differ]
    return {"n": times, "sets of files": len(sets), "passed": len(sets) == 1 and not failed, "findings": findings}


def _jobs(arguments: list[str], base: Path, numbers: range) -> Iterator[Job]:
    for number in numbers:
        folder = base / str(number)
        folder.mkdir()
        yield Job(command(*arguments), folder, hooks)


def _count() -> None:
    value = 0
    while os.getppid() != 1:
        value += 1
