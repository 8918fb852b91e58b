"""``usdn-nas init`` copies a study and its search space, so that the user can edit the copies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from usdn_nas.cli.common import TraceOption, command, stdout
from usdn_nas.cli.lookup import complete_studies

__all__ = ["init"]


@command
def init(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study's name or file.", autocompletion=complete_studies)
    ],
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name of both copies.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replaces files that are there.")] = False,
    verbose: TraceOption = False,
) -> None:
    """Copies a study into ./studies and its search space into ./search_spaces, so that you can edit the copies.

    Example:

        usdn-nas init digits --as mine && usdn-nas run mine
    """
    from usdn_nas._util.errors import UserError, shown
    from usdn_nas._util.files import write_text
    from usdn_nas.config import find_toml, load_study

    if name is not None and not re.fullmatch(r"\w[\w.-]{0,100}", name):
        raise UserError(f"expected letters, digits, '.', '-' and '_', got {shown(name)}", where="--as")
    source = find_toml(study, "studies")
    settings, _ = load_study(source, trust_code=True)  # files are only copied; no network or data set is built
    space = find_toml(settings.space, "search_spaces", beside=source.parent)
    study_copy = Path("studies") / f"{name or source.stem}.toml"
    space_copy = Path("search_spaces") / f"{name or space.stem}.toml"
    if study_copy.resolve() == source.resolve():
        raise UserError("is the study itself", where=study_copy, remedy="--as NAME names the copy")
    for target, origin in ((study_copy, source), (space_copy, space)):
        if target.exists() and not force and target.resolve() != origin.resolve():
            raise UserError("is there already", where=target, remedy="--force replaces it, --as NAME names the copy")
    text = source.read_text(encoding="utf-8")
    if name is not None:  # the copy must use its own search space
        text = re.sub(r"^space\s*=.*$", f'space = "{name}"', text, count=1, flags=re.MULTILINE)
    write_text(study_copy, text)
    if space_copy.resolve() != space.resolve():
        write_text(space_copy, space.read_text(encoding="utf-8"))
    for target in (study_copy, space_copy):
        stdout().print(target, highlight=False, soft_wrap=True)
