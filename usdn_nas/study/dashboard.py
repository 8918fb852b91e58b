"""Shows a study in optuna-dashboard, with a note and figures attached to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from usdn_nas._util.errors import UserError
from usdn_nas.study.storage import quiet

__all__ = ["attach", "serve"]


def _dashboard() -> ModuleType:
    try:
        import optuna_dashboard.artifact
    except ImportError:
        raise UserError("optuna-dashboard is not installed", remedy="pip install 'usdn-nas[dashboard]'") from None
    return optuna_dashboard


def attach(
    study: optuna.Study, pictures: Sequence[Path], note: Callable[[Mapping[str, str]], str], folder: Path
) -> None:
    """Attaches pictures and a note to a study. Both replace those of an earlier call.

    Args:
        study: The study; its storage holds the note.
        pictures: Picture files. A picture replaces an earlier one with the same file name.
        note: Function that takes name -> address of the pictures and returns the note in Markdown.
        folder: Folder for copies of the pictures; it is the ``--artifact-dir`` of optuna-dashboard.

    Raises:
        UserError: optuna-dashboard is not installed.
    """
    dashboard = _dashboard()
    folder.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(folder)
    with quiet():
        ids = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(study)}
        for path in pictures:
            if path.name in ids:
                with path.open("rb") as file:
                    store.write(ids[path.name], file)
            else:
                ids[path.name] = upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)
        address = dashboard.artifact.get_artifact_path
        body = note({path.name: address(study, ids[path.name]) for path in pictures})
        if dashboard.get_note(study) != body:
            dashboard.save_note(study, body)


def serve(study: optuna.Study, folder: Path, host: str, port: int) -> None:
    """Serves optuna-dashboard on the study's storage until it is interrupted.

    Raises:
        UserError: optuna-dashboard is not installed, or it cannot listen at this host and port.
    """
    try:
        _dashboard().run_server(study._storage, host=host, port=port, artifact_store=FileSystemArtifactStore(folder))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}", remedy="--port takes another") from None
