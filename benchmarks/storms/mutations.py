"""Mutated inputs: each is refused in one line, or gives the result that it should, and never takes long."""

from __future__ import annotations

import collections
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storms.cases import CASES, Case, Reader
from storms.children import Ended, Job, run, run_all, tidy
from storms.rooms import prepare_rooms
from storms.study import hooks

__all__ = ["mutations"]

VERDICTS = ("refused", "equal", "another", "untidy", "unforeseen", "traceback", "hang", "wrong")
SECONDS_OF_SILENCE = 5.0
BAD = ("untidy", "unforeseen", "traceback", "hang", "wrong")


@dataclass
class _Try:
    number: int
    case: Case
    reader: Reader
    what: str
    room: Path


class _Storm:
    def __init__(self, seed: int, base: Path, limit: float, keep: Path | None) -> None:
        self.seed, self.base, self.limit, self.keep = seed, base, limit, keep
        self.rooms = prepare_rooms(base, 10 * limit)
        self._usual: dict[tuple[str, str], object] = {}

    def attempt(self, number: int) -> _Try:
        """Mutation number so-and-so of this seed, whatever was tried before it."""
        chance = random.Random(f"{self.seed} {number}")
        (case,) = chance.choices(CASES, [case.weight for case in CASES])
        (reader,) = chance.choices(case.readers, [reader.weight for reader in case.readers])
        room = self.base / f"try-{number}"
        shutil.copytree(self.rooms[case.room], room)
        path = chance.choice(sorted(room.glob(case.files)))
        content, what = case.mutate(path.read_bytes(), chance)
        path.write_bytes(content)
        return _Try(number, case, reader, f"{path.relative_to(room)}: {what}", room)

    def usual(self, case: Case, reader: Reader) -> object:
        """What the reader gives for the file as it was."""
        key = (case.kind, reader.name)
        if key not in self._usual:
            room = self.base / "usual"
            shutil.copytree(self.rooms[case.room], room)
            ended = run(reader.work, room, 10 * self.limit, hooks)
            if ended.status:
                raise RuntimeError(f"{reader.name} failed without a mutation: {ended.stderr}")
            self._usual[key] = reader.observe(room, ended)
            shutil.rmtree(room)
        return self._usual[key]

    def verdict(self, one: _Try, ended: Ended) -> str:
        """One of `VERDICTS`."""
        if ended.late and one.case.kind == "study" and _working(one.room):
            return "another"  # a study that asks for more work, epochs or configurations
        if ended.late:
            return "hang"
        if ended.crashed:
            return "traceback"
        if ended.status:
            return "refused" if tidy(ended) else "unforeseen" if ended.unforeseen else "untidy"
        try:
            found = one.reader.observe(one.room, ended)
        except (OSError, ValueError) as error:
            found = f"no result: {error}"
        if found == self.usual(one.case, one.reader):
            return "equal"
        if not one.case.theirs or "BROKEN" in str(found) or "no result" in str(found):
            return "wrong"
        return "another"


def _working(room: Path) -> bool:
    """Whether the command that was killed in this folder had just written something: a checkpoint, or a trial."""
    return time.time() - max(path.stat().st_mtime for path in room.rglob("*") if path.is_file()) < SECONDS_OF_SILENCE


def mutations(
    seed: int, numbers: range, limit: float, at_once: int, say: Callable[[str], None], keep: Path | None = None
) -> dict[str, Any]:
    """Tries the mutations ``numbers`` of a seed.

    Args:
        limit: Seconds that a command may take.
        at_once: How many are tried at a time.
        keep: Folders of those that went wrong are kept here.
    """
    count: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    findings: list[str] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="storm-mutations-") as name:
        storm = _Storm(seed, Path(name), limit, keep)

        def jobs() -> Iterator[Job]:
            for number in numbers:
                one = storm.attempt(number)
                storm.usual(one.case, one.reader)
                yield Job(one.reader.work, one.room, hooks, one)

        for done, (job, ended) in enumerate(run_all(jobs(), limit, at_once), 1):
            one = job.about
            assert isinstance(one, _Try)
            verdict = storm.verdict(one, ended)
            count[one.case.kind][verdict] += 1
            slowest = max(slowest, ended.seconds)
            if verdict in BAD:
                last = "\n".join(ended.stderr.splitlines()[-4:])[-700:]
                findings.append(
                    f"{one.case.kind}, mutation {one.number} ({one.what}), {one.reader.name}: {verdict}, "
                    f"status {ended.status}, {ended.seconds:.1f} s: {last}"
                )
                say(findings[-1])
                if keep is not None:
                    shutil.copytree(one.room, keep / f"{seed}-{one.number}", dirs_exist_ok=True)
            shutil.rmtree(one.room)
            if done % 100 == 0:
                say(f"mutations: {done} of {len(numbers)}")
    total = collections.Counter({verdict: sum(c[verdict] for c in count.values()) for verdict in VERDICTS})
    return {
        "n": len(numbers), **{verdict: total[verdict] for verdict in VERDICTS},
        "slowest_seconds": math.ceil(slowest * 10) / 10,
        "kinds": {kind: {v: count[kind][v] for v in VERDICTS} for kind in sorted(count)},
        "passed": not any(total[verdict] for verdict in BAD), "findings": findings[:200],
    }  # fmt: skip
