"""The application and its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from usdn_nas import __version__
from usdn_nas._util.errors import UserError
from usdn_nas.cli.compare import compare
from usdn_nas.cli.dashboard import dashboard
from usdn_nas.cli.data import data
from usdn_nas.cli.export import export
from usdn_nas.cli.front import front
from usdn_nas.cli.init import init
from usdn_nas.cli.inspect import inspect
from usdn_nas.cli.list import list_
from usdn_nas.cli.plot import plot
from usdn_nas.cli.retrain import evaluate, retrain
from usdn_nas.cli.run import run
from usdn_nas.cli.stages import pretrain, report, search, supernet

__all__ = ["app"]


class _OneLine(TyperGroup):
    """Reports wrong options in one line, like all other wrong input."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        try:
            status = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.Abort:
            sys.exit(130)
        except Exception as error:
            # Typer contains its own copy of Click, so its exceptions are recognized by their methods, not their class.
            if not hasattr(error, "format_message") or not standalone_mode:
                raise
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()  # type: ignore[attr-defined]
            else:
                sys.stderr.write(f"error: {UserError(error.format_message())}\n")
            sys.exit(2)
        if not standalone_mode:
            return status
        sys.exit(status if isinstance(status, int) else 0)


app = typer.Typer(
    name="usdn-nas",
    cls=_OneLine,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 the run failed, 2 input that cannot be used, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"usdn-nas {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Prints the version.")
    ] = False,
) -> None:
    """Searches the bits and the early exits of a CNN together, in a weight-sharing quantized supernet.

    Start here: `usdn-nas run digits`, then `usdn-nas front runs/digits`.
    """


WHOLE, STAGES, LOOK = "The whole", "Stage by stage", "Look up"
app.command(rich_help_panel=WHOLE)(run)
app.command(rich_help_panel=STAGES)(pretrain)
app.command(rich_help_panel=STAGES)(supernet)
app.command(rich_help_panel=STAGES)(search)
app.command(rich_help_panel=STAGES)(export)
app.command(rich_help_panel=STAGES)(retrain)
app.command(rich_help_panel=STAGES)(evaluate)
app.command(rich_help_panel=STAGES)(report)
app.command(rich_help_panel=LOOK)(front)
app.command(rich_help_panel=LOOK)(compare)
app.command(rich_help_panel=LOOK)(plot)
app.command(rich_help_panel=LOOK)(dashboard)
app.command(rich_help_panel=LOOK)(inspect)
app.command(rich_help_panel=LOOK)(data)
app.command(name="list", rich_help_panel=LOOK)(list_)
app.command(rich_help_panel=LOOK)(init)
