"""Divides the engine's memory between current states, outputs, compiled parts, and states cached between calls."""

from __future__ import annotations

from dataclasses import dataclass

from usdn_nas._util.errors import UserError
from usdn_nas.engine.parts import PartCompiler

__all__ = ["HEADS_KEPT", "OUTPUT_BYTES", "Budget", "divide", "kept_batches"]

OUTPUT_BYTES = 5
"""Bytes of one exit's output for one image: confidence (float32) and correctness (bool)."""
HEADS_KEPT = 4
"""Number of heads whose outputs are cached together with a state."""


@dataclass(frozen=True)
class Budget:
    """Bytes for each use.

    Attributes:
        images: Number of images in a batch. It is the requested number, or less if memory does not allow that.
        outputs: For outputs that are not yet yielded.
        compiled: For compiled parts, without temporaries that exist only during compilation.
        trail: For the activation cache: states cached between calls.
    """

    images: int
    outputs: int
    compiled: int
    trail: int


def divide(memory_bytes: int, compiler: PartCompiler, images: int, samples: int) -> Budget:
    """Divides ``memory_bytes``.

    First come the bytes that one configuration needs. Half of the rest goes to the activation cache, a quarter to
    outputs and a quarter to compiled parts.

    Args:
        images: Requested number of images in a batch.
        samples: Number of samples in the split.

    Raises:
        UserError: The memory is too little for one configuration.
    """
    each = sum(compiler.state_bytes) + compiler.work_bytes
    # While a part is compiled, memory also holds its codes, and one layer in double precision and in its final type.
    making = 5 * max(compiler.weight_bytes)
    compiled = sum(compiler.weight_bytes)
    outputs = 3 * len(compiler.supernet.chain.heads) * samples * OUTPUT_BYTES
    needed = making + compiled + outputs
    if memory_bytes < 2 * each + needed:
        raise UserError(
            f"{memory_bytes / 1e9:.3g} GB are too little for one configuration",
            where="search.memory_gb",
            remedy=f"give {(2 * each + needed) / 1e9:.3g} or more",
        )
    images = max(1, min(images, memory_bytes // 2 // each, (memory_bytes - needed) // each))
    rest = memory_bytes - needed - images * each
    return Budget(images, outputs + rest // 4, compiled + rest // 4, rest // 2)


def kept_batches(budget: Budget, compiler: PartCompiler, samples: int) -> list[int]:
    """Returns, for each segment, the number of image batches for which its state on the last path is cached.

    Early segments get memory first. The states of later segments are useless without theirs, and more paths go through
    them.
    """
    batches = -(-samples // budget.images)
    left = budget.trail
    kept: list[int] = []
    for size in compiler.state_bytes:
        each = budget.images * (size + HEADS_KEPT * OUTPUT_BYTES)
        kept.append(min(batches, left // each, *kept[-1:]))
        left -= kept[-1] * each
    return kept
