"""`MultiExitNetwork`: an ordered chain of segments with exits on the boundaries between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from usdn_nas.space.records import FINAL_EXIT

__all__ = ["MultiExitNetwork", "State"]

State = tuple[Tensor, ...]
"""The tensors that pass from one segment to the next. They are in full precision, with the batch dimension first."""


class MultiExitNetwork(nn.Module):
    """A chain of segments, and heads that read the state after a segment.

    Args:
        segments: Name -> module that takes the tensors of a state and returns a tensor or a tuple of tensors.
        heads: Exit name -> module that takes the tensors of a state and returns logits (B, C). The last exit is
            `FINAL_EXIT`.
        exit_segments: Exit name -> number of the segment that the exit follows. The numbers must strictly rise.
        dropped: Modules of the original network that are not in the chain, such as auxiliary heads.
        kept: Path of a module that runs unchanged, at full precision -> the reason.
    """

    def __init__(
        self,
        segments: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        exit_segments: Mapping[str, int],
        dropped: tuple[str, ...] = (),
        kept: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.dropped, self.kept = dropped, dict(kept or {})
        if list(heads)[-1] != FINAL_EXIT or exit_segments[FINAL_EXIT] != len(segments) - 1:
            raise ValueError(f"the last exit must be '{FINAL_EXIT}' and follow the last segment")
        self.segment_names = tuple(segments)
        self.segments = nn.ModuleList(segments.values())
        self.exit_names = tuple(heads)
        self.exit_segments = tuple(exit_segments[name] for name in heads)
        if list(self.exit_segments) != sorted(set(self.exit_segments)):
            raise ValueError("exits must follow different segments, in the order of the chain")
        self.heads = nn.ModuleList(heads.values())

    def run_segment(self, index: int, state: State) -> State:
        """Runs segment ``index`` on the state before it and returns the state after it."""
        out = self.segments[index](*state)
        return out if isinstance(out, tuple) else (out,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits of all E exits in order, one tensor (B, C) each, for images (B, C_in, H, W)."""
        return self.run_from(0, (images,))

    def run_from(self, first: int, state: State) -> tuple[Tensor, ...]:
        """Runs all segments from ``first`` on.

        Args:
            first: Number of the first segment to run.
            state: The state before that segment.

        Returns:
            Logits (B, C) of each exit that follows one of these segments.
        """
        logits = []
        exits = dict(zip(self.exit_segments, self.heads, strict=True))
        for index in range(first, len(self.segments)):
            state = self.run_segment(index, state)
            if index in exits:
                logits.append(exits[index](*state))
        return tuple(logits)

    def parts(self) -> Iterable[tuple[str, nn.Module]]:
        """Yields every segment, then every head, each with the prefix of its layers' names."""
        yield from zip(self.segment_names, self.segments, strict=True)
        for name, head in zip(self.exit_names, self.heads, strict=True):
            yield exit_prefix(name), head

    def place(self, exits: Iterable[str]) -> MultiExitNetwork:
        """Returns a network with only ``exits`` and the final exit. Modules are shared, not copied."""
        keep = {*exits, FINAL_EXIT}
        if unknown := keep - set(self.exit_names):
            raise ValueError(f"no such exit: {sorted(unknown)}")
        names = [name for name in self.exit_names if name in keep]
        segments = dict(zip(self.segment_names, self.segments, strict=True))
        heads = dict(zip(self.exit_names, self.heads, strict=True))
        where = dict(zip(self.exit_names, self.exit_segments, strict=True))
        return MultiExitNetwork(
            segments, {n: heads[n] for n in names}, {n: where[n] for n in names}, self.dropped, self.kept
        )


def exit_prefix(name: str) -> str:
    """Returns the prefix of the layer names of exit ``name``: ``"final"`` or ``"exit:<name>"``."""
    return name if name == FINAL_EXIT else f"exit:{name}"
