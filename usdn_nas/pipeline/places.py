"""Refuses a run folder if the run would overwrite files in it that no run has written."""

from __future__ import annotations

import os
from pathlib import Path

from usdn_nas._util.errors import UserError
from usdn_nas.documents import ChainDocument, StudyDocument, read_document
from usdn_nas.pipeline.stagefile import StageFile

__all__ = ["check_places", "holds_anything"]

_PLACES = {
    "pretrain": ("pretrain",),
    "supernet": ("supernet",),
    "search": ("search",),
    "export": ("export",),
    "evaluate": ("evaluation.json",),
    "report": ("report.html", "figures"),
}
"""Files and folders of each stage. Names inside ``retrain`` contain a digest, so that nothing else can have them."""

_DESCRIPTION: dict[str, type[StudyDocument] | type[ChainDocument]] = {
    "study.json": StudyDocument,
    "chain.json": ChainDocument,
}


def holds_anything(path: Path) -> bool:
    """Returns True if ``path`` is a file or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else os.path.lexists(path)


def check_places(folder: Path) -> None:
    """Refuses a run folder in which a run would overwrite files that no run wrote.

    Raises:
        UserError: There is such a file, or ``folder`` itself is a file.
    """
    for needed in (folder, folder / "retrain"):
        if os.path.lexists(needed) and not needed.is_dir():
            raise _refusal(needed, "is a file, and a run needs a folder")
    taken = [(key, folder / name) for key, names in _PLACES.items() for name in names if holds_anything(folder / name)]
    records = StageFile(folder)  # read only now, because a stage is recorded before it writes its files
    for key, path in taken:
        if key not in records.stages:
            raise _refusal(path, "is there already, and no run wrote it")
    for name, model in _DESCRIPTION.items():
        if not records.path.exists() and os.path.lexists(folder / name):
            try:
                read_document(folder / name, model)
            except UserError:
                raise _refusal(folder / name, "is there already, and no run wrote it") from None


def _refusal(path: Path, finding: str) -> UserError:
    return UserError(finding, where=path, remedy="choose another run folder (--out), or move it away")
