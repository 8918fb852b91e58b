"""How the engine divides its memory: states of the walk, outputs, compiled parts, and states kept between calls."""

from __future__ import annotations

from dataclasses import dataclass

from usdn_nas._util.errors import UserError
from usdn_nas.engine.parts import PartCompiler

__all__ = ["HEADS_KEPT", "OUTPUT_BYTES", "Budget", "divide", "kept_batches"]

OUTPUT_BYTES = 5
"""Of one exit's output for one image: confidence (float32) and correctness (bool)."""
HEADS_KEPT = 4
"""Heads whose outputs are kept with a state."""


@dataclass(frozen=True)
class Budget:
    """Bytes for each use.

    Attributes:
        images: Images a batch: as many as asked for, or as half the memory holds.
        outputs: Those that were not handed over yet.
        compiled: Compiled parts, what is alive only while one is made left out.
        trail: States kept between calls.
    """

    images: int
    outputs: int
    compiled: int
    trail: int


def divide(memory_bytes: int, compiler: PartCompiler, images: int, samples: int) -> Budget:
    """Divides ``memory_bytes``: what one configuration needs first; of the rest, half to the trail, the others alike.

    Args:
        images: Images a batch, asked for.
        samples: N, of the split.

    Raises:
        UserError: It is too little to run one configuration.
    """
    each = sum(compiler.state_bytes) + compiler.work_bytes
    # While a part is compiled, its codes, and one layer in double precision and as it becomes, are alive beside it.
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
    """For each segment: for how many image batches its state of the last path is kept.

    The first segments come first: without their state the later ones' are of no use, and more paths go through them.
    """
    batches = -(-samples // budget.images)
    left = budget.trail
    kept: list[int] = []
    for size in compiler.state_bytes:
        each = budget.images * (size + HEADS_KEPT * OUTPUT_BYTES)
        kept.append(min(batches, left // each, *kept[-1:]))
        left -= kept[-1] * each
    return kept
