"""The command line: ``usdn-nas``. One file a command; what is heavy is imported when a command runs.

Exit status: 0 done, 1 the run failed, 2 the user's input cannot be used, 130 interrupted.
"""

from __future__ import annotations

import os

from usdn_nas.cli.app import app
from usdn_nas.cli.common import under_torchrun

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``usdn-nas``."""
    # OpenMP's threads wait in a busy loop unless told otherwise: with another process on the same cores a training
    # step took 7 times longer than on one thread. Read when torch is imported, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if under_torchrun():
        from usdn_nas.cli.torchrun import run_under_torchrun

        run_under_torchrun(app)
    app(prog_name="usdn-nas")
