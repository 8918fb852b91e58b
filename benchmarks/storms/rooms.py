"""Folders with everything that a command needs to read one kind of file."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storms.children import Child, Ended, command, library, run
from storms.datasets import write_cifar, write_idx, write_images
from storms.study import RUN, STUDY, hooks, write_study

__all__ = ["prepare_rooms"]

_SQUEEZENET = """
[network]
name = "torchvision:squeezenet1_1"
input_shape = [3, 64, 64]
num_classes = 10

[bits]
choices = [[4, 4]]

[exits]
head = "linear"
"""


def _must(ended: Ended) -> None:
    if ended.status:
        raise RuntimeError(f"an undisturbed command failed: {ended.stderr}")


def _study_of(name: str) -> str:
    """The tiny study on another data set; images are of 3 x 8 x 8 where they are in colour."""
    lines = f'[data]\nname = "{name}"\nroot = "data"\nsearch = 50\n'
    return STUDY[: STUDY.index("[data]")] + lines + STUDY[STUDY.index("\n[supernet]") :]


def _kill_when(path: Path) -> Callable[[], None]:
    """Prepares a child that is killed as soon as there is a checkpoint of some steps."""

    def prepare() -> None:
        hooks()
        from usdn_nas.training import loop

        save, calls = loop.save_checkpoint, 0

        def saving(*arguments: Any) -> None:
            nonlocal calls
            save(*arguments)
            calls += 1
            if calls == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        loop.save_checkpoint = saving

    return prepare


def prepare_rooms(base: Path, limit: float) -> dict[str, Path]:
    """Makes the folders, below ``base``; returns them by their names."""
    rooms = {name: base / name for name in ("new", "whole", "network", "interrupted", "pretrained", "sqlite")}
    write_study(rooms["new"])
    shutil.copytree(rooms["new"], rooms["whole"])
    _must(run(command("run", "studies/tiny.toml", "--quiet"), rooms["whole"], limit, hooks))
    whole = rooms["whole"] / RUN
    rooms["network"].mkdir()
    (retrained,) = whole.glob("retrain/*/kd")
    for name in ("architecture.json", "weights.safetensors"):
        shutil.copy(retrained / name, rooms["network"])

    shutil.copytree(rooms["new"], rooms["interrupted"])
    arguments = ("pretrain", "studies/tiny.toml", "--quiet")
    ended = Child(command(*arguments), rooms["interrupted"], limit, _kill_when(whole)).wait()
    assert ended.status == -signal.SIGKILL and (rooms["interrupted"] / RUN / "pretrain/checkpoint.pt").exists()

    study = STUDY.replace("[supernet]", '[supernet]\nweights = "start.pt"')
    write_study(rooms["pretrained"], study, _SQUEEZENET)
    _must(run(library(_save_start), rooms["pretrained"], limit))

    shutil.copytree(rooms["new"], rooms["sqlite"])
    storage = ("--set", "search.storage=sqlite:///study.db")
    _must(run(command("search", "studies/tiny.toml", "--quiet", *storage), rooms["sqlite"], limit, hooks))

    for name, kind, write in (
        ("idx", "idx", lambda folder: write_idx(folder, zipped=False)),
        ("idx-gz", "idx", lambda folder: write_idx(folder, zipped=True)),
        ("cifar", "cifar10", write_cifar),
        ("images", "imagefolder", write_images),
    ):
        rooms[name] = base / name
        shape = "[3, 32, 32]" if kind == "cifar10" else "[3, 8, 8]" if kind == "imagefolder" else "[1, 8, 8]"
        path = write_study(rooms[name], _study_of(kind))
        space = path.parents[1] / "search_spaces/tiny_space.toml"
        space.write_text(space.read_text().replace("[1, 8, 8]", shape))
        write(rooms[name] / "data")
    return rooms


def _save_start() -> str:
    """Writes weights of a network as torch saves them, for a study that starts from them."""
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(num_classes=10).state_dict(), "start.pt")
    return "saved"
