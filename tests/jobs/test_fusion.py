"""The fusion step on graded queries, and the command that shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from funnel import cli
from funnel.config import Config
from funnel.errors import BadConfig
from funnel.generation import Generation
from jobs import tune
from jobs.work import Work
from recall.fusion import fusion_of

THINGS = ["lamp", "chair", "table", "shelf", "clock", "sofa", "rug", "vase", "bowl", "plate"]
COLOURS = ["red", "blue", "green", "black", "white"]


@pytest.fixture(scope="module")
def data(data_set: Callable[..., Path]) -> Path:
    """Titles that say what is asked for; every colour of a thing is relevant to its name."""
    items = [
        {"item_id": f"{thing}-{colour}", "title": f"{colour} {thing}"}
        for thing in THINGS
        for colour in COLOURS
    ]
    queries, qrels = list[dict[str, Any]](), list[dict[str, Any]]()
    for colour in COLOURS:
        for thing in THINGS:
            name = f"{colour} {thing}"
            queries.append({"query_id": name, "query": name, "split": "train"})
            best = {"query_id": name, "item_id": f"{thing}-{colour}", "grade": 3}
            qrels += [best, {"query_id": name, "item_id": f"{thing}-red", "grade": 1}]
    # What validates is not fitted to.
    held = [{"query_id": f"held {n}", "query": "red lamp", "split": "valid"} for n in range(5)]
    qrels += [{"query_id": q["query_id"], "item_id": "rug-red", "grade": 3} for q in held]
    return data_set(items=items, queries=queries + held, qrels=[dict(q) for q in unique(qrels)])


def unique(qrels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({(q["query_id"], q["item_id"]): q for q in reversed(qrels)}.values())


@pytest.fixture(scope="module")
def settings(opened: Callable[..., Work], data: Path) -> Config:
    return opened(data).config


def test_what_is_fitted_is_shown_and_served(data: Path, settings: Config) -> None:
    found = tune.fusion(data, settings)
    search = found["search"]
    assert isinstance(search, dict)
    assert search["requests"] == 50
    assert set(search["weights"]) == {"bm25", "vector"}
    assert search["metrics"]["fusion"][0] >= search["metrics"]["before"][0]
    assert search["metrics"]["bm25"][0] > 0.5
    assert isinstance(found["home"], str)
    assert "0 judged requests, 40 are needed" in found["home"]

    console = Console(width=120, record=True)
    console.print(tune.shown(found))
    text = console.export_text()
    assert "search: " in text
    assert "home: the config's weights stay" in text

    work = Work.open(data, settings)
    fuse = fusion_of(Generation.open(work.draft, check=False), settings, "search")
    assert fuse.weights == search["weights"]
    assert fuse.method == search["method"]


def test_an_unknown_scene_is_named(data: Path, settings: Config) -> None:
    with pytest.raises(BadConfig, match="unknown scene 'attic'"):
        tune.fusion(data, settings, "attic")


def test_the_command_says_what_it_does() -> None:
    told = CliRunner().invoke(cli.app, ["tune", "--help"])
    assert told.exit_code == 0
    assert "fusion" in told.output


def test_a_bar_is_as_high_as_its_share() -> None:
    assert [tune.bar(value, 8.0) for value in (0.0, 1.0, 4.0, 8.0)] == [" ", "▁", "▄", "█"]
    assert tune.bar(0.0, 0.0) == " "
