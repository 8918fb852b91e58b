"""The command line ``usdn-nas``. Most commands have their own file; slow imports happen only when a command runs.

The exit status is 0 if the command succeeded, 1 if the run failed, 2 if the user's input cannot be used, and 130 if the
command was interrupted.
"""

from __future__ import annotations

import os

from usdn_nas.cli.app import app
from usdn_nas.cli.common import under_torchrun

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``usdn-nas``."""
    # By default, OpenMP's threads wait in a busy loop. With another process on the same cores, a training step then
    # took 7 times as long as on one thread. The variable is set here, because it is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if under_torchrun():
        from usdn_nas.cli.torchrun import run_under_torchrun

        run_under_torchrun(app)
    app(prog_name="usdn-nas")
