import re

import pytest
from rich.text import Text
from terminal import shown

from analysis import tables
from analysis.columns import Columns


def table(loads=("concurrency 8", "rate exp:1..1000@3600s"), columns: int = 9, keys: int = 1) -> Columns:
    """Like that of the stages: a load, which may be folded, and numbers, which may not."""
    made = Columns(keys=keys)
    made.add_column("\nload", overflow="fold", max_width=16)
    for number in range(columns):
        made.add_column(f"TTFT {number}\np50 ms", justify="right", no_wrap=True)
    for row, load in enumerate(loads):
        made.add_row(Text(load), *(f"{row}{number},234.5" for number in range(columns)))
    return made


@pytest.mark.parametrize("width", [30, 40, 60, 80, 110])
def test_every_part_has_the_load_and_nothing_is_lost(width):
    text = shown(table(), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    parts = re.split(r"\n *\n", text)  # a row that is folded has something in its first column
    assert all("load" in part and "concurrency" in part for part in parts)
    for number in range(9):
        assert sum(f"0{number},234.5" in part and f"1{number},234.5" in part for part in parts) == 1
    assert (len(parts) == 1) == (width == 110)


def test_what_fits_is_one_table():
    assert shown(table(), 120).count("load") == 1


def test_one_number_has_to_be_beside_the_load_however_narrow_it_is():
    assert len(list(table().parts(5))) == 9


def test_what_a_row_is_about_may_take_two_columns():
    parts = list(table(columns=6, keys=2).parts(40))
    assert len(parts) > 1
    assert {len(part) > 2 and part[1].header for part in parts} == {"TTFT 0\np50 ms"}


def test_on_forty_columns_the_tables_of_a_run_keep_their_loads(everything):
    for made in everything:
        text = shown(made, 40)
        assert max(map(len, text.splitlines())) <= 40
        assert "…" not in text


@pytest.fixture
def everything(tmp_path):
    """Tables of stages, closed and open, of turns and of a curve."""
    from synthetic import START_NS, S, mark, open_plan, stage_plan, steady_rows, write_run

    from analysis.summary import summarize

    plans = [stage_plan(0), open_plan(1, load_unit="session", load_max_in_flight=16)]
    rows = steady_rows() + [
        one | {"intended_ns": one["sent_ns"]}
        for turn in range(2)
        for one in steady_rows(3, start_ns=START_NS + 20 * S, stage=1, turn=turn, prompt_tokens=500)
    ]
    summary = summarize(write_run(tmp_path, rows, plans, [mark(0), mark(1, START_NS + 20 * S)]))
    stages = summary["stages"]
    return [
        tables.stage_table(stages),
        tables.open_loop_table(stages),
        tables.turn_table(stages),
        tables.curve_table(summary),
    ]
