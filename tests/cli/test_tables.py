"""Tables for people, in terminals of several widths."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from usdn_nas.cli import app


def _lines(monkeypatch: pytest.MonkeyPatch, width: int, *arguments: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    return lines


@pytest.mark.parametrize("width", [60, 80])
def test_inspect_breaks_no_number_and_no_name(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _lines(monkeypatch, width, "inspect", "resnet18_imagenet")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    assert ["layer2.0", "downsample.0", "6,422,528", "layer2.0"] in [row[:4] for row in cells]
    assert ["layer1.0", "conv0", "28,901,376", "fixed 4/4"] in cells
    assert ["final (layer4.1)", "fc", "512,000", "fixed 8/8"] in cells
    assert all(row[0] for row in cells), "no row goes on in a second line"
    assert "GBOPs without internal classifiers" in lines


@pytest.mark.parametrize("width", [60, 80])
def test_list_keeps_names_whole_and_says_where(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/mine.toml").write_text("# My own study of something.\nspace = 'resnet_digits'\n")
    monkeypatch.chdir(tmp_path)
    lines = _lines(monkeypatch, width, "list")
    (mine,) = [line.split("│") for line in lines if " mine " in line]
    (shipped,) = [line.split("│") for line in lines if " resnet18_imagenet_layerwise " in line]
    assert "My own" in mine[2] and mine[3].strip() == "./studies" and shipped[3].strip() == "shipped"


@pytest.mark.parametrize("width", [60, 80])
def test_front_has_a_line_a_point(width: int, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _lines(monkeypatch, width, "front", str(tiny))
    points = (tiny / "search/front.csv").read_text().splitlines()[1:]
    shown = [line.strip("│").split("│")[0].strip() for line in lines if "│" in line]
    assert shown == [point.split(",")[0] for point in points]
