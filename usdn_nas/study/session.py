"""Opens studies. A study is created once, and later refused to a worker with other inputs or settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna

from usdn_nas._util.errors import UserError, nearest
from usdn_nas.config import SearchConfig
from usdn_nas.space.search_space import SearchSpace
from usdn_nas.study.lock import asking
from usdn_nas.study.objectives import objectives
from usdn_nas.study.patience import Say
from usdn_nas.study.samplers import SamplerSettings, SeededSampler, goal, sampler_settings
from usdn_nas.study.storage import one_write, open_storage, patiently, quiet

__all__ = ["Study", "engine_of", "open_study", "planned", "read_study", "settings_that_matter", "stored_sampler"]

Study = optuna.Study
"""Optuna's study, for the annotations of modules that do not import Optuna."""

_FINGERPRINT = "fingerprint"
_SETTINGS = "search"
_SAMPLER = "sampler"
_ENGINE = "engine"

_FRESH = "delete the study, or give this one another name (search.study_name)"


def settings_that_matter(config: SearchConfig) -> dict[str, Any]:
    """Returns the settings that the values and fronts of trials depend on.

    ``configurations`` is not among them, so that a search can be extended.
    """
    kept: dict[str, Any] = {"mode": config.mode, "exits": config.exits}
    if config.mode == "scalar":
        kept["tr"] = config.tr
    if config.mode == "budget":
        kept["gbops"] = config.gbops
    if config.exits != "sampled":
        kept["thresholds"] = config.thresholds
    if config.rule != "threshold":
        kept["rule"] = config.rule
    return kept


def _refuse_others(name: str, kind: str, stored: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key in (*stored, *(key for key in ours if key not in stored)):
        if stored.get(key) != ours.get(key):
            was, now = (value[:12] if isinstance(value, str) else value for value in (stored.get(key), ours.get(key)))
            raise UserError(
                f"study '{name}' was started with another {kind}.{key}: {was!r}, here it is {now!r}", remedy=_FRESH
            )


def _sampler(study: optuna.Study, config: SearchConfig, settings: SamplerSettings) -> SamplerSettings:
    """Returns the sampler settings stored with the study. They hold even if ``configurations`` has changed since.

    Raises:
        UserError: ``config`` names another sampler, or the seed differs.
    """
    stored = SamplerSettings(**study.user_attrs[_SAMPLER])
    if config.sampler not in ("auto", stored.name):
        _refuse_others(study.study_name, "search", {"sampler": stored.name}, {"sampler": config.sampler})
    _refuse_others(study.study_name, "study", {"seed": stored.seed}, {"seed": settings.seed})
    return stored


def open_study(
    space: SearchSpace,
    config: SearchConfig,
    *,
    seed: int,
    storage_path: Path,
    fingerprint: Mapping[str, str],
    name: str,
    engine: Mapping[str, Any] | None = None,
    say: Say = lambda text: None,
) -> optuna.Study:
    """Opens the study, or creates it if there is none. Several workers may do so at the same moment.

    Args:
        space: The search space.
        config: Settings of the search. If ``storage`` is None, the study is kept in ``storage_path``. ``study_name``
            overrides ``name``.
        seed: Seed of all proposals. A proposal also depends on its trial's number.
        storage_path: Path of the default journal file (``search/study.journal``).
        fingerprint: Digests of all inputs of the study, by name: of the space, the supernet, the split and so on.
        name: The study's name in the storage.
        engine: Settings with which the supernet is run. They are recorded when the study is created. An existing study
            keeps its own (`engine_of`).
        say: Called with a message if the storage cannot be reached or is locked.

    Raises:
        UserError: The storage cannot be opened, the sampler does not suit the space, or the study was started with
            another fingerprint, seed or settings. The message says which.
        RunError: The database failed, or could not be reached for too long.
    """
    settings = sampler_settings(space, config, seed)
    storage = open_storage(config.storage, storage_path, patience_s=config.storage_patience_s, say=say)
    wanted = objectives(config)
    name = config.study_name or name
    first = {
        _FINGERPRINT: dict(fingerprint),
        _SETTINGS: settings_that_matter(config),
        "exits": list(space.candidates),
        "objectives": [asdict(objective) for objective in wanted],
        _ENGINE: dict(engine or {}),
        _SAMPLER: asdict(settings),
    }

    def opened() -> optuna.Study:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=[objective.direction for objective in wanted],
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
        )
        # Trials are read before attributes: this package writes the attributes before it creates any trial.
        trials = study.get_trials(deepcopy=False)
        attributes = study.user_attrs
        if _SAMPLER in attributes:  # this attribute is written last
            _refuse_others(name, "fingerprint", attributes[_FINGERPRINT], fingerprint)
            _refuse_others(name, "search", attributes[_SETTINGS], settings_that_matter(config))
        elif trials:
            raise UserError(f"study '{name}' in this storage was not made by usdn-nas", remedy=_FRESH)
        else:
            one_write(storage, lambda: _describe(study, [objective.name for objective in wanted], first))
        study.sampler = SeededSampler(space, config, _sampler(study, config, settings))
        return study

    def locked() -> optuna.Study:
        with asking(storage, say):
            return opened()

    with quiet():
        return patiently(storage, locked)


def _describe(study: optuna.Study, metrics: list[str], attributes: Mapping[str, Any]) -> None:
    study.set_metric_names(metrics)
    for key, value in attributes.items():
        study.set_user_attr(key, value)


def engine_of(study: optuna.Study) -> dict[str, Any]:
    """Returns the ``engine`` settings that the study was created with. All its workers run the supernet with them."""
    return dict(study.user_attrs.get(_ENGINE, {}))


def read_study(
    config: SearchConfig,
    *,
    storage_path: Path,
    name: str,
    fingerprint: Mapping[str, str] | None = None,
    patience_s: float = 0,
    say: Say = lambda text: None,
) -> optuna.Study:
    """Opens an existing study to read its results.

    Args:
        config, storage_path, name: The same as in `open_study`.
        fingerprint: Digests of the inputs that the study must have. None accepts any study.
        patience_s, say: The same as in `open_storage`.

    Raises:
        UserError: There is no such study, or it has another fingerprint.
    """
    name = config.study_name or name
    if config.storage is None and not Path(storage_path).is_file():
        raise UserError("no search has been run here yet", where=storage_path)
    storage = open_storage(config.storage, storage_path, patience_s=patience_s, say=say)
    with quiet():
        try:
            study = optuna.load_study(study_name=name, storage=storage, pruner=optuna.pruners.NopPruner())
        except KeyError:
            known = [study.study_name for study in storage.get_all_studies()]
            raise UserError(f"no study '{name}' in this storage", remedy=nearest(name, known or ["none"])) from None
    if fingerprint is not None:
        _refuse_others(name, "fingerprint", study.user_attrs.get(_FINGERPRINT, {}), fingerprint)
    return study


def stored_sampler(config: SearchConfig, *, storage_path: Path, name: str) -> str | None:
    """Returns the name of the sampler that the study was started with. None if there is no study."""
    name = config.study_name or name
    if config.storage is None and not Path(storage_path).is_file():
        return None
    storage = open_storage(config.storage, storage_path)
    found = [study for study in storage.get_all_studies() if study.study_name == name]
    return found[0].user_attrs.get(_SAMPLER, {}).get("name") if found else None


def planned(space: SearchSpace, config: SearchConfig) -> tuple[str, int]:
    """Returns the sampler's name (``auto`` resolved) and the number of trials of a search. It opens no study."""
    return sampler_settings(space, config, 0).name, goal(space, config)
