"""No code runs from files that came from somebody else, unless the user consents."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from storms.children import Ended, command, library, run, tidy
from storms.rooms import prepare_rooms
from storms.study import RUN, hooks

__all__ = ["trust"]

EVIL = """
from pathlib import Path
Path(__file__).with_name("HARM").write_text("imported")

class Builder:
    def __call__(self, **keywords):
        Path(__file__).with_name("HARM").write_text("called")
        raise RuntimeError("ran")

build = Builder()

def load(**keywords):
    return build()
"""
"""A module beside the files: what an archive of "results" may bring along."""

NETWORKS = ("evilmod:build", "evilmod:load", "os:abort", "posix:abort", "builtins:exec", "subprocess:run", "os:system",
            "ctypes:string_at", "evilmod:Builder", "torchvision:../evilmod", "evilmod:build.__call__")  # fmt: skip


class _Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('HARM', 'w').write('unpickled')",)


def _named(path: Path, name: str) -> None:
    """Puts another network into an architecture's search space, as somebody who sends the file may."""
    document = json.loads(path.read_text())
    document["space"]["network"] = {"name": name, "input_shape": [1, 8, 8], "num_classes": 10}
    for key in ("digest", "space_digest", "layers", "cost"):
        document.pop(key, None)
    path.write_text(json.dumps(document))


def _named_here(network: str, room: Path) -> None:
    _named(room / "architecture.json", network)


def _in_run(name: str, what: str, room: Path) -> None:
    """Puts a function into the study of a run folder, and into all architectures there."""
    path = room / RUN / "study.json"
    study = json.loads(path.read_text())
    if what == "data":
        study["config"]["data"] = {"name": name}
    else:
        study["space"]["network"] = {"name": name, "input_shape": [1, 8, 8], "num_classes": 10}
        for file in (room / RUN).rglob("architecture.json"):
            _named(file, name)
    path.write_text(json.dumps(study))


def _other(room: Path) -> None:
    shutil.copy(room / RUN / "export/architecture.json", room / "other.json")
    _named(room / "other.json", "evilmod:load")


def _pickled(file: str, room: Path) -> None:
    (room / file).write_bytes(pickle.dumps(_Harm()))


def _load(consent: bool = False) -> object:
    from usdn_nas.export.runtime import load_model

    return load_model("architecture.json", "weights.safetensors", trust_code=consent)


@dataclass(frozen=True)
class _Trap:
    """A file that wants to run code, and a command that reads it."""

    name: str
    room: str
    change: Callable[[Path], object]
    work: Callable[[], None]
    consent: bool = False
    """The user consents, so that the code must run: else nothing would be tested by what does not run."""


_READERS = (
    ("front", RUN),
    ("compare", RUN),
    ("plot", "bits", RUN),
    ("report", RUN, "--quiet"),
    ("run", RUN, "--quiet"),
    ("run", RUN, "--dry-run"),
    ("export", RUN, "--best"),
    ("evaluate", RUN, "--quiet"),
    ("retrain", RUN, "--quiet"),
)


def _architectures() -> Iterator[_Trap]:
    """Functions named in an architecture file; and builtins named to ``inspect``, which nobody can mean."""
    for network in NETWORKS:
        change = partial(_named_here, network)
        yield _Trap(f"load_model, {network}", "network", change, library(_load))
        plot = ("plot", "bits", "architecture.json")
        yield _Trap(f"{' '.join(plot)}, {network}", "network", change, command(*plot))
        if not network.startswith("evilmod:"):  # a function of one's own on the command line is consent
            inspect = ("inspect", network, "--input", "1x8x8")
            yield _Trap(f"inspect {network}", "network", change, command(*inspect))


def _runs() -> Iterator[_Trap]:
    """Functions named in a run folder, as network or as data."""
    for arguments in _READERS:
        for what in ("network", "data"):
            name = f"{' '.join(arguments)}, {what} of the run's study.json"
            yield _Trap(name, "whole", partial(_in_run, "evilmod:load", what), command(*arguments))
    evaluate = ("evaluate", RUN, "--quiet", "--architecture", "other.json")
    yield _Trap(" ".join(evaluate), "whole", _other, command(*evaluate))


def _pickles() -> Iterator[_Trap]:
    """Pickles that call a function, in the place of every file that is or may be one."""
    for room, file, work in (
        ("interrupted", f"{RUN}/pretrain/checkpoint.pt", command("pretrain", RUN, "--quiet")),
        ("pretrained", "start.pt", command("pretrain", "studies/tiny.toml", "--quiet")),
        ("cifar", "data/batches.meta", command("pretrain", "studies/tiny.toml", "--quiet")),
        ("network", "weights.safetensors", library(_load)),
    ):
        yield _Trap(f"a pickle as {file}", room, partial(_pickled, file), work)


def _consented() -> Iterator[_Trap]:
    """The same files, with consent."""
    change = partial(_named_here, "evilmod:load")
    yield _Trap("load_model, trust_code=True", "network", change, library(partial(_load, True)), consent=True)
    for what in ("network", "data"):
        work = command("run", RUN, "--quiet", "--trust-code")
        yield _Trap(f"run --trust-code, {what}", "whole", partial(_in_run, "evilmod:load", what), work, consent=True)


def trust(limit: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Opens files that name functions, and pickles that call them, with every command that reads such files."""
    findings: list[str] = []
    with tempfile.TemporaryDirectory(prefix="storm-trust-") as name:
        base = Path(name)
        rooms = prepare_rooms(base, 10 * limit)
        traps = [*_architectures(), *_runs(), *_pickles(), *_consented()]
        for trap in traps:
            room = base / "try"
            shutil.copytree(rooms[trap.room], room)
            (room / "evilmod.py").write_text(EVIL)
            trap.change(room)
            ended = run(trap.work, room, limit, hooks)
            if why := _why_bad(trap, room, ended):
                findings.append(f"{trap.name}: {why}: {ended.stderr[-300:]}")
                say(findings[-1])
            shutil.rmtree(room)
    return {"n": len(traps), "failed": len(findings), "passed": not findings, "findings": findings}


def _why_bad(trap: _Trap, room: Path, ended: Ended) -> str | None:
    harm = [path.read_text() for path in room.rglob("HARM")]
    if trap.consent:
        return None if harm else "no code ran, with consent"
    if harm:
        return f"code ran: {harm[0]}"
    if tidy(ended) or ended.status == 0:
        return None
    return "hang" if ended.late else f"ended with status {ended.status}"
