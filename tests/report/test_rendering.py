import io
import json
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from usdn_nas._util.errors import UserError
from usdn_nas.report import Run, render, table1
from usdn_nas.report.fitting import FittedTable
from usdn_nas.report.rendering import columns


def _text(table: object, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_front_as_csv_is_the_file_that_it_was_read_from(resnet18: Run) -> None:
    text = render(resnet18.front, "csv")
    assert isinstance(text, str)
    written = pd.read_csv(resnet18.path / "search/front.csv", dtype=str, keep_default_na=False)
    again = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(written, again)


def test_json_keeps_every_digit_and_has_null_for_nothing(resnet18: Run) -> None:
    frame = table1(resnet18.evaluation)
    rows = json.loads(render(frame, "json"))  # type: ignore[arg-type]
    assert rows[-1]["cumulative_gbops"] is None
    assert rows[0]["cost_share_gbops"] == frame["cost_share_gbops"][0]
    front = json.loads(render(resnet18.front, "json"))  # type: ignore[arg-type]
    assert front[0]["exits"] == list(resnet18.front["exits"][0])


def test_table_for_people(resnet18: Run) -> None:
    table = render(table1(resnet18.evaluation), title="Table I")
    assert isinstance(table, Table)
    text = _text(table)
    for word in ("Table I", "Exit rate (%)", "Cost share (G)", "Cumulative cost (G)", "average", "100.00", "–"):
        assert word in text


def test_headings_and_padding_give_way_before_cells(resnet18: Run) -> None:
    frame = table1(resnet18.evaluation)
    cells = [cell for column in columns(frame) for cell in column.cells if cell != "–"]
    wide, middle, narrow = (_text(render(frame, title="A title that is longer than that"), w) for w in (140, 75, 60))
    assert "┃ Exit rate (%) ┃" in wide and len(wide.splitlines()) == len(frame) + 5
    assert "Exit rate (%)" not in middle and "│ layer1.0 │" in middle and "│layer1.0│" in narrow
    for text in (wide, middle, narrow):
        assert text.startswith("A title that is longer than that\n")
        assert [cell for cell in cells if cell not in text] == []
        assert len([line for line in text.splitlines() if "│" in line]) == len(frame)


def test_sentences_break_and_the_padding_stays() -> None:
    table = FittedTable("What", prose=True)
    table.add("name")
    table.add("about it")
    table.add_row("x", "a sentence of some words")
    assert "│ x    │ a sentence of │" in _text(table, 24)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_narrow_terminal_folds(resnet18: Run, width: int) -> None:
    lines = _text(render(table1(resnet18.evaluation)), width).splitlines()
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("values", "cells", "unit"),
    [
        ([12.0594, 0.459], ("12.059", "0.459"), "GBOPs"),
        ([12.0594, 0.000459], ("12.059400", "0.000459"), "GBOPs"),
        ([0.020131, 0.0004], ("20.131", "0.400"), "MBOPs"),
        ([0.000020131], ("20.131",), "kBOPs"),
        ([4096.5, 1.0], ("4.09650", "0.00100"), "TBOPs"),
        ([0.0], ("0.000",), "BOPs"),
    ],
)
def test_costs_are_shown_in_a_unit_that_fits(values: list[float], cells: tuple[str, ...], unit: str) -> None:
    """Three digits of the smallest, one number of decimals. CSV and JSON keep GBOPs."""
    frame = pd.DataFrame({"gbops": values})
    (column,) = columns(frame)
    assert column.cells == cells and column.numeric and column.label == unit
    assert render(frame, "csv") == frame.to_csv(index=False)


def test_all_costs_of_a_table_are_in_one_unit() -> None:
    frame = pd.DataFrame({"cumulative_gbops": [0.02, None], "cost_share_gbops": [0.0004, 0.00001], "n": [3, 4]})
    labels = {column.label: column.cells for column in columns(frame)}
    assert labels["Cumulative cost (M)"] == ("20.000", "–") and labels["Cost share (M)"] == ("0.4000", "0.0100")
    assert labels["n test"] == ("3", "4")


def test_markup_in_names_is_shown_as_it_is() -> None:
    assert "[bold]x" in _text(render(pd.DataFrame({"exit": ["[bold]x"]})))


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_control_characters_in_names_do_not_reach_the_terminal(format: Any) -> None:
    evil = "\x1b]0;title\x07\x1b[31mred\x9b"
    frame = pd.DataFrame([{"name": f"a{evil}b\n", evil: 3}])
    rendered = render(frame, format, title=evil)
    text = rendered if isinstance(rendered, str) else _text(rendered)
    assert not set(text) & {chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))} - {"\n"}
    assert "title" in text


def test_unknown_format() -> None:
    with pytest.raises(UserError, match="did you mean 'json'"):
        render(pd.DataFrame({"a": [1]}), "jsn")  # type: ignore[arg-type]
