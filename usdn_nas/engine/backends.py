"""The table of back ends. A back end compiles programs into parts that can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from usdn_nas.engine import compiled, integer
from usdn_nas.engine.program import CompiledPart, Options, Program

__all__ = ["BACKENDS", "Backend", "BackendName"]

BackendName = Literal["float", "integer"]


@dataclass(frozen=True)
class Backend:
    """A compiler, and a check that says whether it can be used.

    Attributes:
        compile: Turns a program into a part that can run.
        unavailable: Takes a device. Returns the reason why this back end cannot be used there, or None if it can.
    """

    compile: Callable[[Program, Options], CompiledPart]
    unavailable: Callable[[torch.device], str | None]


BACKENDS: dict[BackendName, Backend] = {
    "float": Backend(compiled.compile_program, lambda device: None),
    "integer": Backend(integer.compile_program, integer.unavailable),
}
