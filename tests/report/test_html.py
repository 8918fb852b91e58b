import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from usdn_nas.report import Run, load_run, write_report
from usdn_nas.report._markup import script_json
from usdn_nas.report._summary import result

VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADING = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}


class Page(HTMLParser):
    """Checks that tags nest, gathers ids, links, texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attributes)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._attributes(attributes)

    def _attributes(self, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            elif name in LOADING:
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def text(resnet18: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(resnet18, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_the_page_loads_nothing(text: str) -> None:
    page = Page(text)
    assert all(target.startswith("#") for target in page.loads)
    assert {target[1:] for target in page.loads} <= set(page.ids)
    assert not page.tags & {"link", "img", "iframe", "object", "embed"}
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)


def test_ids_are_unique(text: str) -> None:
    ids = Page(text).ids
    assert len(ids) == len(set(ids))


def test_the_page_holds_the_numbers(resnet18: Run, text: str) -> None:
    words = " ".join(Page(text).words)
    kd = resnet18.evaluation["models"]["kd"]
    row = kd["exits"][0]
    for number in (
        f"{100 * kd['policy']['accuracy']:.2f}%",
        f"{kd['policy']['average_bops'] / 1e9:.4g} GBOPs",
        f"{100 * row['exit_rate']:.2f}",
        f"{row['ece']:.3f}",
        "1,814.07 M MACs",
        "34.71 GBOPs",
        "add × 8",
        "seed 0",
        "selected on it",
        "0123456789abcdef",
    ):
        assert number in words, number


def test_how_the_winner_was_chosen(short_run: Run, tmp_path: Path) -> None:
    shutil.copytree(short_run.path, tmp_path / "run")
    path = tmp_path / "run/export/architecture.json"
    written = json.loads(path.read_text())
    trial = written["source"]["trial"]
    assert f"The winner ({trial}) has" in result(load_run(tmp_path / "run"))
    path.write_text(json.dumps(written | {"source": {"trial": trial, "score": "smoothed"}}))
    assert f"The winner ({trial}, chosen by smoothed accuracy) has" in result(load_run(tmp_path / "run"))


def test_names_are_escaped(text: str) -> None:
    assert "<title>resnet18 &lt;&amp;&gt; co" in text
    assert "<2 cores>" not in text


def test_inline_data_are_complete(resnet18: Run, text: str) -> None:
    found = re.search(r'<script type="application/json" id="front-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found.group(1))
    assert [point["name"] for point in data["front"]] == list(resnet18.front["trial"])
    assert data["front"][0]["bits"] == [resnet18.front[group][0] for group in data["groups"]]
    assert len(data["trials"]) == 127 and data["unit"] == "GBOPs"
    assert {mark["split"] for mark in data["marks"]} == {"search", "test"}


def test_script_json_cannot_close_its_script() -> None:
    assert script_json({"a": "</script><!--"}) == '{"a":"\\u003c/script>\\u003c!--"}'


def test_colours_follow_the_scheme(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in drawn and not re.search(r"(fill|stroke): #", drawn)


def test_an_unfinished_run_says_what_is_missing(started: Callable[[], Run], tmp_path: Path) -> None:
    page = Page(write_report(started(), tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(page.words)
    assert "Unfinished" in words and "stage 'search' writes it" in words
    assert "settings" in page.ids and "front" not in page.ids
