"""Finds the study, run or search space that an argument names.

This is the order of the look-up. The first place that has something wins.

1. The folder of a run. It holds ``study.json``.
2. A TOML file, by its path.
3. A study of this name: in ``./studies``, then among the shipped ones.
4. A run of this name: ``runs/NAME``. So ``export mine`` works after ``run somewhere/mine.toml``.

``inspect`` looks for a search space of the name before the study and the run. A study and a run stand for the search
space that they use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from usdn_nas._util.errors import UserError, shown

__all__ = ["ORDER", "complete_any", "complete_studies", "find_study_or_run"]

ORDER = "A study's TOML file, a run's folder, or a name: of a study, else of a run in ./runs."
"""The order of the look-up, for help texts."""


def complete_studies(incomplete: str) -> list[str]:
    """Names of studies and runs that begin so. A shell completes files by itself."""
    return sorted({*_names("studies", incomplete), *(name for name in _runs() if name.startswith(incomplete))})


def complete_any(incomplete: str) -> list[str]:
    """Names of search spaces, studies and runs that begin so."""
    return sorted({*_names("search_spaces", incomplete), *complete_studies(incomplete)})


def _names(folder: Literal["studies", "search_spaces"], incomplete: str) -> list[str]:
    from usdn_nas.config import list_toml

    return [name for name in list_toml(folder) if name.startswith(incomplete)]


def _runs() -> dict[str, Path]:
    """Name -> folder of every run in ``./runs``."""
    return {path.parent.name: path.parent for path in sorted(Path("runs").glob("*/study.json"))}


def find_study_or_run(study: str) -> Path:
    """Returns a study's TOML file or a run's folder. The order is that of this module.

    Raises:
        UserError: Nothing has this name, or a search space has it.
    """
    from usdn_nas._util.parsing import check_path
    from usdn_nas.config import find_toml, is_space

    if not study.strip():
        raise UserError(f"expected a study or the folder of a run, got {study!r}")
    check_path(study)
    if (Path(study) / "study.json").is_file():
        return Path(study)
    try:
        found = find_toml(study, "studies")
    except UserError:
        if study in (runs := _runs()):
            return runs[study]
        if not _names_space(study):
            raise
    else:
        if not is_space(found):
            return found
    raise UserError(
        f"{shown(study)} is a search space, which has no search and no run",
        remedy="name a study or a run that uses it; 'usdn-nas list' shows studies",
    )


def _names_space(name: str) -> bool:
    from usdn_nas.config import find_toml

    try:
        return bool(find_toml(name, "search_spaces"))
    except UserError:
        return False
