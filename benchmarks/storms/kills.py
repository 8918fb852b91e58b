"""SIGKILL at any moment of a whole run, and settings swapped to and fro: nothing that was finished is lost."""

from __future__ import annotations

import collections
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storms.children import Child, Ended, command, tidy
from storms.study import contents, differences, hooks, write_study
from storms.users import Users

__all__ = ["kills"]

OTHERS = (
    "supernet.pretrain.lr=0.03", "seed=4", "supernet.random_paths=1", "search.thresholds=8", "search.mode=scalar",
    "retrain.teacher.lr=0.04", "retrain.alpha=0.9", "retrain.compare_ce=false",
)  # fmt: skip
"""Settings that are swapped with the study's own: every stage is the first to change with some of them."""

TRAINED = ("pretrain", "supernet", "search", "teacher", "kd", "ce")
"""Stages with a folder of their own. Others, such as a choice or a page, are made anew in a moment."""

ATTEMPTS = 10
"""After so many kills on the way to one goal, the next attempt is left alone."""

_WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "shutil.move", "os.link"}


@dataclass(frozen=True)
class Arrow:
    """When a child is killed: before its ``write``-th write in the run folder, or ``delay`` seconds after that."""

    write: int
    delay: float | None


def _stage(key: str) -> str:
    return key.removesuffix(".old").split("/")[-1]


def _opens_to_write(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _watch(folder: Path, log: Path, arrow: Arrow | None, bell: int | None) -> Callable[[], None]:
    """Prepares a child: it notes the stages that it runs in ``log``, and meets its ``arrow``.

    Python reports a write to an audit hook before it happens. At the chosen one the child kills its process group, or
    rings ``bell``, and its parent kills it a little later.
    """

    def prepare() -> None:
        hooks()
        from dataclasses import replace

        from usdn_nas.pipeline.ledger import Ledger, Stage

        ensure = Ledger.ensure

        def noted(self: Ledger, stage: Stage) -> bool:
            def work(given: Stage) -> None:
                with log.open("a") as file:
                    file.write(json.dumps([stage.key, stage.fingerprint]) + "\n")
                stage.run(given)

            return ensure(self, replace(stage, run=work))

        Ledger.ensure = noted
        if arrow is None:
            return
        inside, left = str(folder), arrow.write

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event not in _WRITES and not (event == "open" and _opens_to_write(arguments)):
                return
            path = arguments[0]
            if not isinstance(path, str | Path) or not os.path.abspath(path).startswith(inside):
                return
            left -= 1
            if left == 0 and arrow.delay is None:
                os.killpg(0, signal.SIGKILL)
            elif left == 0 and bell is not None:
                os.write(bell, b"!")

        sys.addaudithook(hear)

    return prepare


class _Room:
    """A folder with the tiny study, its run, and files of a user around it."""

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder, self.run, self.limit = folder, folder / "runs/tiny", limit
        write_study(folder)
        self.log = folder / "log"
        self.done: set[tuple[str, str]] = set()
        self.again: list[str] = []

    def attempt(self, setting: str | None, arrow: Arrow | None) -> Ended:
        """Runs the study with a setting, or with none of its own; counts finished stages that it trained again."""
        arguments = ["run", "studies/tiny.toml", "--quiet", *(("--set", setting) if setting else ())]
        self.log.write_text("")
        listen, bell = os.pipe()
        child = Child(command(*arguments), self.folder, self.limit, _watch(self.run, self.log, arrow, bell))
        os.close(bell)
        if arrow is not None and arrow.delay is not None and os.read(listen, 1):  # nothing came: it has ended
            time.sleep(arrow.delay)
            child.kill()
        os.close(listen)
        ended = child.wait()
        ran = [json.loads(line) for line in self.log.read_text().splitlines()]
        self.again += [key for key, digest in ran if (key, digest) in self.done and _stage(key) in TRAINED]
        self.done |= {(key.removesuffix(".old"), record["fingerprint"]) for key, record in self.finished().items()}
        return ended

    def records(self) -> dict[str, Any]:
        """The stages that the run folder knows of."""
        path = self.run / "stages.json"
        found: dict[str, Any] = json.loads(path.read_text())["stages"] if path.exists() else {}
        return found

    def finished(self) -> dict[str, Any]:
        """Those of `records` that are done."""
        return {key: record for key, record in self.records().items() if record["status"] == "done"}

    def under_way(self) -> str:
        """The stage that was interrupted, or what lay between two."""
        running = [_stage(key) for key, record in self.records().items() if record["status"] == "running"]
        return running[-1] if running else "between stages"


def _trials(expected: dict[str, Any], folder: Path) -> tuple[int, int]:
    """How many trials of a finished search are lost, and how many are there twice."""
    wanted = expected["search/trials.csv"]
    found = contents(folder).get("search/trials.csv", [])
    bits = [tuple(value for key, value in row.items() if key.startswith("layer")) for row in found]
    return sum(row not in found for row in wanted), len(bits) - len(set(bits))


class _Storm:
    """Rounds of kills, and what was counted."""

    def __init__(self, base: Path, seed: int, number: int, limit: float) -> None:
        self.base, self.number, self.limit = base, number, limit
        self.chance = random.Random(seed)
        self.count: collections.Counter[str] = collections.Counter()
        self.where: collections.Counter[str] = collections.Counter()
        self.findings: list[str] = []
        self.first, self.rounds = seed % len(OTHERS), 0
        self._wholes: dict[str | None, dict[str, Any]] = {}

    def whole(self, setting: str | None) -> dict[str, Any]:
        """What the undisturbed run leaves."""
        if setting not in self._wholes:
            room = _Room(self.base / f"whole-{len(self._wholes)}", self.limit)
            ended = room.attempt(setting, None)
            if ended.status:
                raise RuntimeError(f"the undisturbed run failed: {ended.stderr}")
            self._wholes[setting] = contents(room.run)
        return self._wholes[setting]

    def round(self) -> None:
        """A fresh run that goes to A, B, A, B, A and is killed on its way."""
        other = OTHERS[(self.first + self.rounds) % len(OTHERS)]
        self.rounds += 1
        room = _Room(self.base / f"round-{self.rounds}", self.limit)
        users = Users(room.folder, room.run, self.chance.randrange(2**32))
        name = f"round {self.rounds} ({other})"
        for step, setting in enumerate((None, other, None, other, None)):
            given_up = step < 3 and self.chance.random() < 1 / 3
            about = f"{name}, goal {step + 1} ({setting or 'A'})"
            ended = self._towards(room, setting, self.chance.randrange(1, 6) if given_up else ATTEMPTS)
            users.plant()
            if ended.status == 0:
                self._compare(about, room, setting, users)
            elif ended.status != -signal.SIGKILL or ended.late:
                kind = "hang" if ended.late else "refused" if tidy(ended) else "traceback"
                self.count["failed"] += 1
                self.findings.append(f"{about}: {kind}, status {ended.status}: {ended.stderr[-600:]}")
                break
        gone = users.gone()
        self.count["finished stages trained again"] += len(room.again)
        self.count["user's files"] += users.count
        self.count["user's files gone or changed"] += len(gone)
        self.findings += [f"{name}: trained again: {key}" for key in room.again]
        self.findings += [f"{name}: a user's file is gone: {one}" for one in gone[:3]]

    def _towards(self, room: _Room, setting: str | None, patience: int) -> Ended:
        """Runs until the goal is reached, or was missed ``patience`` times and is to be given up."""
        for attempts in itertools.count(1):
            arrow = self._arrow() if self.count["kills"] < self.number and attempts <= ATTEMPTS else None
            ended = room.attempt(setting, arrow)
            if arrow is None or ended.status != -signal.SIGKILL or ended.late:
                return ended
            self.count["kills"] += 1
            self.where[room.under_way()] += 1
            if attempts == patience < ATTEMPTS:
                return ended
        raise AssertionError

    def _arrow(self) -> Arrow:
        """Early writes are met more often: there, results are moved about."""
        delay = self.chance.choice((None, 0.0, self.chance.uniform(0, 0.003), self.chance.uniform(0, 0.1)))
        return Arrow(round(2 ** self.chance.uniform(0, 7.5)), delay)

    def _compare(self, about: str, room: _Room, setting: str | None, users: Users) -> None:
        """Compares a finished run with the one that nobody disturbed."""
        self.count["ends"] += 1
        wrong = differences(room.run, self.whole(setting))
        lost, doubled = _trials(self.whole(setting), room.run)
        left = [p for p in room.run.rglob(".*") if p.is_file() and p.name != ".lock" and not users.owns(p.name)]
        self.count.update(
            {"trials lost": lost, "trials doubled": doubled, "temporary files left": len(left)}
            | {"ends that differ": int(bool(wrong or lost or doubled))}
        )
        if wrong or lost or doubled:
            names = ", ".join(wrong)
            self.findings.append(f"{about}: differs in {names}; trials lost {lost}, doubled {doubled}")
        if left:
            self.findings.append(f"{about}: left {', '.join(p.name for p in left[:3])}")


BAD = (
    "finished stages trained again",
    "trials lost",
    "trials doubled",
    "ends that differ",
    "failed",
    "temporary files left",
    "user's files gone or changed",
)
"""What is promised never to happen."""


def kills(seed: int, number: int, limit: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Kills runs of the tiny study ``number`` times.

    A round begins a fresh run with two settings, A and B, and goes to A, B, A, B, A. On the way to each goal the
    command is killed and started again; a third of the first goals are given up half-way. Each finished goal is
    compared with the run of the same settings that nobody disturbed.
    """
    with tempfile.TemporaryDirectory(prefix="storm-kills-") as name:
        storm = _Storm(Path(name), seed, number, limit)
        while storm.count["kills"] < number:
            before = len(storm.findings)
            storm.round()
            say(
                "\n".join(
                    [*storm.findings[before:], f"kills: {storm.count['kills']} of {number}, round {storm.rounds}"]
                )
            )
    return {
        "n": storm.count["kills"],
        "rounds": storm.rounds,
        "ends": storm.count["ends"],
        "user's files": storm.count["user's files"],
        **{name: storm.count[name] for name in BAD},
        "where": dict(sorted(storm.where.items())),
        "passed": not any(storm.count[name] for name in BAD),
        "findings": storm.findings[:50],
    }
