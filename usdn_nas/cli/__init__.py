"""The command line: ``usdn-nas``. One file a command; what is heavy is imported when a command runs.

Exit status: 0 done, 1 the run failed, 2 the user's input cannot be used, 130 interrupted.
"""

from __future__ import annotations

from usdn_nas.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of ``usdn-nas``."""
    app(prog_name="usdn-nas")
