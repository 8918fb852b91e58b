"""Runs the inputs that were made by hand: each is refused in one line, at once."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storms.cases import read_data
from storms.children import Ended, Job, command, library, run_all, tidy
from storms.inputs import CRAFTED, Crafted
from storms.rooms import prepare_rooms
from storms.study import hooks

__all__ = ["crafted"]


def crafted(limit: float, at_once: int, say: Callable[[str], None], only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Tries each of `CRAFTED`, or those whose names hold one of ``only``."""
    findings: list[str] = []
    tried = [one for one in CRAFTED if not only or any(part in one.name for part in only)]
    with tempfile.TemporaryDirectory(prefix="storm-crafted-") as name:
        base = Path(name)
        rooms = prepare_rooms(base, 10 * limit)

        def jobs() -> Iterator[Job]:
            for number, one in enumerate(tried):
                room = base / f"try-{number}"
                shutil.copytree(rooms[one.room], room)
                one.change(room)
                work = library(read_data) if one.arguments is None else command(*one.arguments)
                yield Job(work, room, hooks, one)

        for job, ended in run_all(jobs(), limit, at_once):
            one = job.about
            assert isinstance(one, Crafted)
            if why := _why_bad(one, ended):
                findings.append(
                    f"{one.name}: {why}, status {ended.status}, {ended.seconds:.1f} s: {ended.stderr[-500:]}"
                )
                say(findings[-1])
            shutil.rmtree(job.folder)
    return {"n": len(tried), "failed": len(findings), "passed": not findings, "findings": findings}


def _why_bad(one: Crafted, ended: Ended) -> str | None:
    if ended.late:
        return "hang"
    if ended.crashed:
        return "traceback"
    if ended.status:
        return None if tidy(ended) else "internal error" if ended.unforeseen else "untidy"
    return "accepted" if one.refused else None
