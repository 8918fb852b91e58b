"""Where data is looked for, and what is said when it is not there."""

import subprocess
import sys

import pytest

from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data import DATASETS, describe_data, load_data
from usdn_nas.data.places import find_files


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("USDN_DATA", raising=False)


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "digits"])
def test_missing(name):
    config = DataConfig(name=name, root="nowhere")
    report = describe_data(config)
    assert not report.present
    assert report.folder is None
    assert report.looked_in
    assert report.how_to_get
    with pytest.raises(UserError) as caught:
        load_data(config, seed=0)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"data.root: data set '{name}' is not there: no ")
    assert all(file.name in line for file in report.files)
    assert all(str(folder) in line for folder in report.looked_in)
    assert line.endswith(f"'usdn-nas data {name}' says how to get it")


def test_digits_are_always_there():
    assert describe_data(DataConfig()).present


def test_given_root_then_variable_then_data(idx_folder, monkeypatch):
    folder = idx_folder("given")
    config = DataConfig(name="idx")
    assert not describe_data(config).present
    assert [str(path) for path in describe_data(config).looked_in] == ["data"]
    assert find_files(DataConfig(name="idx", root=str(folder)))[0].parent == folder
    monkeypatch.setenv("USDN_DATA", str(folder))
    assert find_files(config)[0].parent == folder
    assert not describe_data(DataConfig(name="idx", root="nowhere")).present


def test_system_folder_only_where_no_root_is_given():
    places = [str(path) for path in describe_data(DataConfig(name="fashion-mnist")).looked_in]
    assert places == ["data", "data/FashionMNIST/raw", "data/fashion-mnist", "/usr/share/datasets/fashion-mnist"]
    given = [str(path) for path in describe_data(DataConfig(name="fashion-mnist", root="given")).looked_in]
    assert given == ["given", "given/FashionMNIST/raw", "given/fashion-mnist"]


def test_home_is_expanded(idx_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(idx_folder("home/images").parent))
    assert describe_data(DataConfig(name="idx", root="~/images")).present


@pytest.mark.parametrize("gzipped", [False, True])
def test_fullest_folder_and_its_missing_file(idx_folder, gzipped):
    folder = idx_folder("root/FashionMNIST/raw", gzipped)
    removed = next(folder.glob("t10k-labels*"))
    removed.unlink()
    config = DataConfig(name="fashion-mnist", root=str(folder.parents[1]))
    report = describe_data(config)
    assert not report.present
    assert report.folder == folder
    assert [file.path is None for file in report.files] == [False, False, False, True]
    assert report.files[1].size_bytes == next(folder.glob("train-labels*")).stat().st_size
    with pytest.raises(UserError, match=f"no t10k-labels-idx1-ubyte in {folder};"):
        find_files(config)


def test_unknown_name():
    with pytest.raises(UserError, match="data.name: unknown data set 'cifar1000'; did you mean 'cifar100'?"):
        describe_data(DataConfig(name="cifar1000"))


def test_describing_needs_no_torch():
    program = (
        "import sys; from usdn_nas.config import DataConfig; from usdn_nas.data import describe_data\n"
        "describe_data(DataConfig(name='cifar10')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
