"""Checkpoints of github.com/kalviny/MSDNet-PyTorch: where each of their keys belongs.

A checkpoint is a file of `torch.save` whose "state_dict" has keys such as
``module.blocks.1.2.layers.0.conv_normal.net.3.weight``: block 1, its part 2 (the first block's part 0 is the first
layer; a transition is a part of its own), scale 0 of those that part gives, second convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from usdn_nas.networks.foreign import load_foreign

__all__ = ["load_official", "official"]


def load_official(segments: Mapping[str, nn.Module], heads: Mapping[str, nn.Module], path: Path) -> None:
    """Puts a checkpoint's weights into the network; every key must be there, and no other.

    Only BatchNorm's counters (``num_batches_tracked``) may be missing, as in files of torch 0.4.0 and older. They then
    stay 0, as in the authors' code.

    Args:
        segments: As `msdnet` names them.
        heads: One for each block, in order, the classifier last.

    Raises:
        UserError: The file cannot be read without executing it, or keys or shapes differ; they are named.
    """
    load_foreign(official(segments, heads), path)


def official(segments: Mapping[str, nn.Module], heads: Mapping[str, nn.Module]) -> nn.Module:
    """A module with the same layers under the official names; it holds parameters and cannot be called."""
    root = nn.Module()
    for path, layer in _names(segments, heads):
        *parents, name = path.split(".")
        at = root
        for part in parents:
            if part not in dict(at.named_children()):
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        at.add_module(name, layer)
    return root


def _names(segments: Mapping[str, nn.Module], heads: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Official path -> layer."""
    stem = dict(segments["stem"].named_children())
    nest = "" if "maxpool" in stem else "net."
    yield f"blocks.0.0.layers.0.{nest}0", stem["conv0"]
    yield f"blocks.0.0.layers.0.{nest}1", stem["bn0"]
    for index, stack in enumerate(segments["scales"].children(), 1):
        yield from _stack(f"blocks.0.0.layers.{index}.net", stack)
    parts = {0: 1}
    for name, layer in segments.items():
        if not name.startswith("block"):
            continue
        block = int(name.removeprefix("block").split(".")[0])
        part = parts.get(block, 0)
        reduces = False
        for index, grow in enumerate(layer.children()):
            stacks = dict(grow.named_children())
            for kind in ("normal", "down"):
                if kind in stacks:
                    yield from _stack(f"blocks.{block}.{part}.layers.{index}.conv_{kind}.net", stacks[kind])
            if "transition" in stacks:
                reduces = True
                yield from _stack(f"blocks.{block}.{part + 1}.m.{index}.net", stacks["transition"])
        parts[block] = part + 1 + reduces
    for index, head in enumerate(heads.values()):
        layers = dict(head.named_children())
        for number in (0, 1):
            yield f"classifier.{index}.m.{number}.net.0", layers[f"conv{number}"]
            yield f"classifier.{index}.m.{number}.net.1", layers[f"bn{number}"]
        yield f"classifier.{index}.linear", layers["linear"]


def _stack(path: str, stack: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Convolution and BatchNorm stand at 0 and 1, those of a second convolution at 3 and 4."""
    for name, layer in stack.named_children():
        kind, number = name[:-1], int(name[-1])
        if kind != "relu":
            yield f"{path}.{3 * number + (kind == 'bn')}", layer
