"""Four workers on one study, in three storages: workers are killed, the database server is stopped and started."""

from __future__ import annotations

import collections
import contextlib
import csv
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from storms.children import Child, Ended, command, run, tidy
from storms.postgres import PASSWORD, Postgres, why_not
from storms.study import SPACE, STUDY, hooks, write_study

__all__ = ["STORAGES", "storages"]

STORAGES = ("journal", "sqlite", "postgresql")
WORKERS = 4
TRIALS = 60
SECONDS_A_TRIAL = 0.15
"""The tiny network's evaluation is slowed down to this, so that there is time to disturb it."""

STARTS = 60
"""A round ends in failure after so many starts of workers."""


def _slow() -> None:
    """For a child: an evaluation that takes a while."""
    hooks()
    from usdn_nas.engine.engine import Engine

    run_ = Engine.run

    def slowly(self: Engine, configurations: Any) -> Iterator[Any]:
        for found in run_(self, configurations):
            time.sleep(SECONDS_A_TRIAL)
            yield found

    Engine.run = slowly


@dataclass
class _Worker:
    folder: Path
    child: Child
    disturbed: bool = False
    """The server was stopped while it ran."""
    killed: bool = False


class _Round:
    """One study in one storage, from an empty storage to its last trial."""

    def __init__(
        self, base: Path, folder: Path, url: str, chance: random.Random, limit: float, count: collections.Counter[str]
    ) -> None:
        self.folder, self.url, self.chance, self.limit, self.count = folder, url, chance, limit, count
        self.findings: list[str] = []
        self.starts = 0
        for number in range(WORKERS):
            shutil.copytree(base, folder / f"w{number}")
        self.workers = [self._start(folder / f"w{number}") for number in range(WORKERS)]

    def _start(self, folder: Path) -> _Worker:
        self.starts += 1
        sets = (f"search.storage={self.url}", f"search.configurations={TRIALS}", "search.batch=4")
        arguments = ["search", "runs/tiny", "--quiet", *(part for one in sets for part in ("--set", one))]
        return _Worker(folder, Child(command(*arguments), folder, self.limit, _slow, memory=None))

    def _restart(self, worker: _Worker) -> None:
        self.workers[self.workers.index(worker)] = self._start(worker.folder)

    def running(self) -> list[_Worker]:
        """Workers that have not ended."""
        return [worker for worker in self.workers if not worker.child.poll()]

    def kill_one(self) -> bool:
        """Kills a worker, if there is one, and starts it again."""
        running = self.running()
        if not running:
            return False
        worker = self.chance.choice(running)
        worker.child.kill()
        ended = worker.child.wait()
        if ended.status != -signal.SIGKILL:  # it ended first
            self._look(worker, ended)
            return False
        self.count["kills"] += 1
        self._restart(worker)
        return True

    def stop_server(self, server: Postgres) -> None:
        """Stops the server for a while under the workers."""
        for worker in self.running():
            worker.disturbed = True
        server.stop(self.chance.choice(("fast", "immediate")))
        time.sleep(self.chance.uniform(0.2, 3))
        server.start()
        self.count["stops"] += 1

    def step(self) -> bool:
        """Looks at those that ended; whether any goes on."""
        for worker in list(self.workers):
            if worker.child.ended is None and (worker.child.poll() or not worker.child.left()):
                self._look(worker, worker.child.wait())
        return any(worker.child.ended is None for worker in self.workers)

    def _look(self, worker: _Worker, ended: Ended) -> None:
        text = ended.stdout + ended.stderr
        if any(
            part in text for part in (PASSWORD, quote(PASSWORD, safe=""), PASSWORD[-6:], quote(PASSWORD[-6:], safe=""))
        ):
            self.count["passwords shown"] += 1
            self.findings.append(f"a part of the password is shown: {text[-400:]}")
        if ended.status == 0 and not ended.crashed:
            return
        if ended.late:
            kind = "hangs"
        elif ended.crashed or not tidy(ended):
            kind = "tracebacks"
        else:
            kind = "ended in one line" if worker.disturbed else "failed without need"
        self.count[kind] += 1
        if kind != "ended in one line":
            self.findings.append(f"{kind}: status {ended.status}, {ended.stderr[-500:]}")
        if self.starts < STARTS:
            self._restart(worker)
        else:
            self.count["rounds given up"] += 1

    def end(self) -> None:
        """Ends all that still runs."""
        for worker in self.workers:
            if worker.child.ended is None:
                worker.child.kill()
                worker.child.wait()

    def judge(self, truth: dict[tuple[str, ...], tuple[str, ...]]) -> None:
        """Counts trials that were lost, doubled, failed, or have other values than an undisturbed enumeration."""
        tables = []
        for worker in self.workers:
            with contextlib.suppress(OSError), (worker.folder / "runs/tiny/search/trials.csv").open() as file:
                tables.append(list(csv.DictReader(file)))
        if not tables:
            self.count["trials lost"] += TRIALS
            self.findings.append("no worker wrote its trials")
            return
        rows = tables[-1]
        complete = [row for row in rows if row["state"] == "complete"]
        keys = [_bits(row) for row in complete]
        found = {
            "trials lost": max(0, TRIALS - len(complete)),
            "trials doubled": len(keys) - len(set(keys)) + max(0, len(complete) - TRIALS),
            "trials failed": sum(row["state"] == "fail" for row in rows),
            "trials wrong": sum(_values(row) != truth[_bits(row)] for row in complete),
        }
        self.count.update(found)
        self.count["trials"] += len(complete)
        if any(found.values()):
            self.findings.append(", ".join(f"{name} {value}" for name, value in found.items() if value))
        others = sum([_plain(row) for row in table] != [_plain(row) for row in rows] for table in tables)
        self.count["tables that differ"] += others
        if others:
            self.findings.append(f"{others} workers wrote another trials.csv")


def _bits(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(value for key, value in row.items() if key.startswith("layer"))


def _values(row: dict[str, str]) -> tuple[str, ...]:
    return row["front_size"], row["front"]  # which of these stands for the trial depends on its number


def _plain(row: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in row.items() if key != "seconds"}


def _base(folder: Path, limit: float) -> tuple[Path, dict[tuple[str, ...], tuple[str, ...]]]:
    """A folder with a trained supernet, and what every configuration of its search space gives."""
    choices = [[w, a] for w in (2, 3, 4) for a in (2, 3, 4)]
    space = SPACE.replace("[[2, 2], [4, 3], [4, 4]]", str(choices))
    write_study(folder / "base", STUDY, space)
    _must(run(command("supernet", "studies/tiny.toml", "--quiet"), folder / "base", limit, hooks))
    shutil.copytree(folder / "base", folder / "all")
    _must(run(command("search", "runs/tiny", "--exhaustive", "--quiet"), folder / "all", limit, hooks))
    with (folder / "all/runs/tiny/search/trials.csv").open() as file:
        return folder / "base", {_bits(row): _values(row) for row in csv.DictReader(file)}


def _must(ended: Ended) -> None:
    if ended.status:
        raise RuntimeError(f"an undisturbed command failed: {ended.stderr}")


def storages(
    seed: int, kills: int, stops: int, limit: float, say: Callable[[str], None], kinds: tuple[str, ...] = STORAGES
) -> dict[str, Any]:
    """Runs studies with four workers in each kind of storage until ``kills`` of them were killed there.

    Args:
        stops: How often the PostgreSQL server is stopped and started under them.
        kinds: Of `STORAGES`.

    Returns:
        What was counted, by kind; ``skipped`` says why a kind was not tried.
    """
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="storm-storages-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the server's user has to pass through
        base, truth = _base(folder, limit)
        for kind in kinds:
            if kind == "postgresql" and (reason := why_not()) is not None:
                found[kind] = {"skipped": reason}
                say(f"postgresql: skipped, {reason}")
                continue
            chance = random.Random(f"{seed} {kind}")
            place = folder / kind
            place.mkdir()
            if kind == "postgresql":
                with Postgres(place) as server:
                    found[kind] = _storm(base, place, kind, truth, chance, kills, stops, limit, say, server)
            else:
                found[kind] = _storm(base, place, kind, truth, chance, kills, 0, limit, say, None)
    return found


def _storm(
    base: Path, place: Path, kind: str, truth: dict[tuple[str, ...], tuple[str, ...]], chance: random.Random,
    kills: int, stops: int, limit: float, say: Callable[[str], None], server: Postgres | None,
) -> dict[str, Any]:  # fmt: skip
    """Rounds in one kind of storage until it has been disturbed often enough."""
    count: collections.Counter[str] = collections.Counter()
    findings: list[str] = []
    while count["kills"] < kills or count["stops"] < stops:
        number = count["rounds"] = count["rounds"] + 1
        folder = place / f"round-{number}"
        folder.mkdir()
        urls = {"journal": f"{folder}/shared.journal", "sqlite": f"sqlite:///{folder}/study.db"}
        url = urls[kind] if server is None else server.database(f"round {number}")
        one = _Round(base, folder, url, chance, limit, count)
        try:
            while one.step():
                time.sleep(chance.uniform(0.1, 1.0))
                if count["kills"] < kills and (count["stops"] >= stops or chance.random() < 0.7):
                    one.kill_one()
                elif server is not None and count["stops"] < stops:
                    one.stop_server(server)
        finally:
            one.end()
        one.judge(truth)
        findings += [f"{kind}, round {number}: {finding}" for finding in one.findings]
        say(
            "\n".join(
                [*one.findings, f"{kind}: {count['kills']} kills, {count['stops']} stops, {count['trials']} trials"]
            )
        )
        if count["rounds given up"]:
            break
    bad = ("tracebacks", "hangs", "failed without need", "rounds given up", "trials lost", "trials doubled",
           "trials failed", "trials wrong", "tables that differ", "passwords shown")  # fmt: skip
    return {
        "n": count["kills"], "stops": count["stops"], "rounds": count["rounds"], "trials": count["trials"],
        "ended in one line": count["ended in one line"], **{name: count[name] for name in bad},
        "passed": not any(count[name] for name in bad), "findings": findings[:50],
    }  # fmt: skip
