"""The command line under ``torchrun``: rank 0 runs the command, and the other ranks train together with it."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from usdn_nas.cli.common import command
from usdn_nas.pipeline.ranks import follow, joined
from usdn_nas.training.distributed import rank

__all__ = ["run_under_torchrun"]


def run_under_torchrun(app: typer.Typer) -> NoReturn:
    """Runs ``app`` in rank 0; in other ranks, helps rank 0 with trainings."""
    with joined():
        if rank() == 0:
            app(prog_name="usdn-nas")
        try:
            command(follow)()
        except typer.Exit as end:
            sys.exit(end.exit_code)
    raise AssertionError("both end by SystemExit")
