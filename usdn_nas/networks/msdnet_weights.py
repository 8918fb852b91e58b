"""Reads checkpoints of github.com/kalviny/MSDNet-PyTorch. Maps each of their keys to a layer of our network.

A checkpoint is a file of `torch.save` whose "state_dict" has keys such as
``module.blocks.1.2.layers.0.conv_normal.net.3.weight``. This key means: block 1, part 2 of the block, scale 0 of those
that the part returns, second convolution. In the first block, part 0 is the first layer. A transition is a part of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from usdn_nas.networks.foreign import load_foreign

__all__ = ["load_official", "official"]


def load_official(segments: Mapping[str, nn.Module], heads: Mapping[str, nn.Module], path: Path) -> None:
    """Loads the weights of a checkpoint into the network. The file must have every key of the network and no other.

    Only BatchNorm's counters (``num_batches_tracked``) may be missing, as in files of torch 0.4.0 and older. They then
    stay 0, as in the authors' code.

    Args:
        segments: The segments, with the names that `msdnet` gives them.
        heads: The heads in order, one for each block. The last one is the classifier.
        path: The checkpoint.

    Raises:
        UserError: The file could be read only by executing code, or keys or shapes differ; the message lists them.
    """
    load_foreign(official(segments, heads), path)


def official(segments: Mapping[str, nn.Module], heads: Mapping[str, nn.Module]) -> nn.Module:
    """Returns a module with the same layers under the official names. It only holds parameters; it cannot be called."""
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
    """Yields (official path, layer) for each layer."""
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
    """Yields (official path, layer) for the layers of a stack.

    In the official code, the first convolution and its BatchNorm have the numbers 0 and 1, the second ones 3 and 4.
    """
    for name, layer in stack.named_children():
        kind, number = name[:-1], int(name[-1])
        if kind != "relu":
            yield f"{path}.{3 * number + (kind == 'bn')}", layer
