"""One figure as a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from usdn_nas.cli import plot
from usdn_nas.report import load_run
from usdn_nas.report.figures.write import FIGURES


def texts(path: Path) -> list[str]:
    """Of an SVG whose letters are outlines: matplotlib leaves each text in a comment."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(encoding="utf-8"))


def again(run: Path, name: str) -> Path:
    """The same run as a folder of another name, in the working directory."""
    folder = Path(name)
    folder.mkdir()
    for path in run.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def test_every_figure_is_on_offer() -> None:
    assert sorted(plot._FIGURES.split(", ")) == sorted(FIGURES)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("deep/a.svg", b"<?xml")])
def test_the_suffix_says_the_form(name: str, start: bytes, command: Command, tiny: Path, tmp_path: Path) -> None:
    assert command("plot", "ladder", tiny, "--to", name).stdout == f"{name}\n"
    assert (tmp_path / name).read_bytes().startswith(start)


def test_without_a_name(command: Command, tiny: Path, tmp_path: Path) -> None:
    assert command("plot", "front", tiny).stdout == "front.pdf\n" and (tmp_path / "front.pdf").is_file()


def test_fronts_of_two_runs(command: Command, tiny: Path, tmp_path: Path) -> None:
    command("plot", "front", tiny, again(tiny, "other"), "--to", "two.svg")
    assert any(text.startswith("front of other") for text in texts(tmp_path / "two.svg"))


def test_bits_of_points_and_of_files(command: Command, tiny: Path, tmp_path: Path) -> None:
    run = load_run(tiny)
    first, last = run.front["trial"].iloc[0], run.front["trial"].iloc[-1]
    command("plot", "bits", tiny, "--trial", first, "--trial", last, "--share", "macs", "--to", "points.svg")
    assert {f"tiny {first}", f"tiny {last}"} <= {text.removesuffix(" (W over A)") for text in _joined(tmp_path)}
    # By hand: nothing but what a file needs.
    mine = tmp_path / "mine.json"
    mine.write_text(
        json.dumps(
            {
                "schema": "usdn-nas/architecture/1",
                "space": run.space.spec.model_dump(mode="json"),
                "bits": {group.name: list(group.choices[0]) for group in run.space.groups},
                "exits": [run.space.candidates[0]],
                "thresholds": [0.625],
            }
        )
    )
    assert command("plot", "bits", mine, "--to", "mine.svg").exit_code == 0
    assert "≥ 0.62" in " ".join(texts(tmp_path / "mine.svg"))


def _joined(folder: Path) -> list[str]:
    """Texts of ``points.svg``; a second line belongs to the first."""
    return [text.replace("\n", " ") for text in texts(folder / "points.svg")] + [
        line for text in texts(folder / "points.svg") for line in text.splitlines()
    ]


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (("frnt", "RUN"), "no such figure: 'frnt'; did you mean 'front'?"),
        (("front", "nowhere"), "no such study: 'nowhere'"),
        (("front", "RUN", "--to", "a.jpg"), "a.jpg: expected a name that ends in .png, .svg, .pdf"),
        (("front", "RUN", "--share", "macs"), "--trial and --share belong to the figure 'bits'"),
        (("exits", "RUN", "RUN"), "the figure 'exits' shows one run, got 2"),
        (("bits", "RUN", "--trial", "99.9"), "the front has no point '99.9'"),
        (("bits", "RUN", "RUN"), "two of the architectures have one name"),
        (("bits", "RUN/export/architecture.json", "--trial", "0.0"), "--trial is a point of a run's front"),
    ],
)
def test_what_cannot_be_drawn(
    arguments: tuple[str, ...], finding: str, command: Command, tiny: Path, tmp_path: Path
) -> None:
    result = command("plot", *(word.replace("RUN", str(tiny)) for word in arguments))
    assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert finding in result.stderr and list(tmp_path.iterdir()) == []


def test_layers_of_other_networks(command: Command, tiny: Path) -> None:
    chain = json.loads((tiny / "chain.json").read_text())
    chain["chain"]["segments"][1]["layers"][0]["macs"] += 1
    other = again(tiny, "other")
    (other / "chain.json").unlink()
    (other / "chain.json").write_text(json.dumps(chain))
    result = command("plot", "bits", tiny, other)
    assert result.exit_code == 2 and "layers of different networks" in result.stderr
