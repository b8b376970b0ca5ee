"""What is kept of a benchmark, and the page made of it."""

import json

import numpy as np
import pytest

from benchmarks.record import kept, page, told
from funnel.cli import plain
from funnel.evaluate import Figure

ROW = {"method": "a|b", "calls": 1234, "ms": 0.12345}


def test_a_result_keeps_command_machine_and_rows_without_this_machines_paths():
    said = "warming up\n" + json.dumps(
        {"task": "text", "data": "/home/me/sets/vaswani", "machine": "m", "rows": [ROW]}
    )
    found = kept("text", ["/home/me/sets/vaswani", "--seeds", "2"], 1.23, said)
    assert found["command"] == "python -m benchmarks.text vaswani --seeds 2"
    assert (found["data"], found["machine"], found["rows"]) == ("vaswani", "m", [ROW])


def test_an_evaluation_becomes_one_row_an_order():
    figures = {
        "nDCG@10": {"mean": 0.5, "low": 0.25, "high": 0.75},
        "GAUC": plain(Figure(np.nan, np.nan, np.nan)),
    }
    orders = {"page": figures, "popularity": figures}
    said = json.dumps({"home": {"requests": 7, "orders": orders}})
    rows = kept("evaluate", ["data/x"], 1.0, said)["rows"]
    assert rows[1] == {
        "scene": "home",
        "requests": 7,
        "order": "popularity",
        "nDCG@10": "0.5000 [0.2500, 0.7500]",
        "GAUC": "",
    }


def test_the_page_has_a_table_a_command():
    result = {"machine": "m", "date": "2026-01-01", "seconds": 2.0, "data": "", "rows": [ROW]}
    made = page([result | {"command": "c1"}, result | {"command": "c2"}])
    assert made.count("| method | calls | ms |") == 2
    assert "| a\\|b | 1,234 | 0.123 |" in made
    assert "m · 2026-01-01 · 2 s in all" in made


def test_a_benchmark_that_prints_no_json_is_an_error():
    with pytest.raises(ValueError, match="substring"):
        kept("text", [], 1.0, "nothing")


def test_relative_paths_of_a_reader_stay():
    assert told("evaluate", ["data/shop"]) == "funnel evaluate data/shop"
