"""Settings of all tests, and the finished run that some of them look at."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.shared import made_once
from usdn_nas.engine.engine import EngineSettings

# The same examples in every run, and no deadline: the machine may be busy.
settings.register_profile("usdn", derandomize=True, deadline=None)
settings.load_profile("usdn")

# One thread for this process, and for those that it starts: pytest-xdist runs as many at once as there are cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what runs in the background with Ctrl-C ignored, and so it would stay for processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_engine() -> Iterator[None]:
    """Searches run the float back end, so that their figures are the same on every processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("usdn_nas.pipeline.study.choose_settings", lambda *_: EngineSettings("float", 50))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test's random numbers do not depend on the tests before it, which may be others in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny study that has been through all stages. Not to be changed: `tiny_copy` is."""
    return made_once(tmp_path_factory, "tiny", _run_tiny) / "runs/tiny"


def _run_tiny(folder: Path) -> None:
    from tests.pipeline import tiny

    study = tiny.write_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert "report" in tiny.run(study)


@pytest.fixture
def tiny_copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with its study two folders above, as the working directory has it."""
    shutil.copytree(tiny.parents[1], tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs/tiny"
