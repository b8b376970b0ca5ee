"""Rules on a small catalogue, through the whole stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.errors import BadConfig
from funnel.generation import Generation, Manifest
from funnel.holds import holds
from funnel.predicate import parse as condition
from funnel.types import PINNED, Candidates, Query
from rerank import build

ITEMS = pa.table(
    {
        "item_id": [f"i{n}" for n in range(8)],
        "title": [f"thing {n}" for n in range(8)],
        "brand": ["a", "a", "b", "b", None, "c", "c", "c"],
        "category": ["X/1", "X/2", "X", "Y", "Y/1", None, "Z", "X"],
        "tags": [["red"], ["red", "new"], [], None, ["new"], ["red"], [], []],
        "price": [1.0, 2, 3, 4, 5, 6, 7, None],
    }
)
USERS = pa.table({"user_id": ["u0", "u1"], "segment": ["basic", "pro"]})
DATA = {
    "data": {
        "categorical": ["brand", "category"],
        "multi": ["tags"],
        "numeric": ["price"],
        "user_categorical": ["segment"],
    }
}
FOUND = Candidates(np.arange(8, dtype=np.int32), np.arange(8, 0, -1, dtype=np.float32) / 10)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    path = tmp_path_factory.mktemp("shop")
    write_catalogue(path / "items", ITEMS, ["brand", "category"], ["tags"], ["price"])
    write_catalogue(path / "users", USERS, ["segment"], [], [], key="user_id")
    config = parse(DATA)
    Manifest("g1", 0, 0, config.all_actions, config.model_dump(mode="json")).write(path)
    return Generation.open(path)


def page(
    shop: Generation, path: Path, *rules: dict[str, Any], query: Query | None = None
) -> list[int]:
    text = "".join(
        f'[[rule]]\nname = "r{number}"\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in rule.items() if key != "users")
        + "".join(
            f"users = {{ {name} = {json.dumps(values)} }}\n"
            for name, values in rule.get("users", {}).items()
        )
        for number, rule in enumerate(rules)
    )
    (path / "rules.toml").write_text(text)
    rerank = {"rules": str(path / "rules.toml"), "diversity": 0.0}
    config = parse({**DATA, "scenes": {"home": {"rerank": rerank}}})
    return build(shop, config, "home").run(query or Query(limit=5), FOUND).rows.tolist()


def test_every_kind_of_rule(shop: Generation, tmp_path: Path) -> None:
    assert page(shop, tmp_path) == [0, 1, 2, 3, 4]
    assert page(shop, tmp_path, {"do": "block", "where": 'brand = "a"'}) == [2, 3, 4, 5, 6]
    assert page(shop, tmp_path, {"do": "only", "where": "price 2..4"}) == [1, 2, 3]
    pin = {"do": "pin", "items": ["i7", "i6"], "place": 2}
    assert page(shop, tmp_path, pin) == [0, 7, 6, 1, 2]
    boost = {"do": "boost", "items": ["i4"], "by": 1.9}  # 0.4 · 1.9 is between 0.8 and 0.7
    assert page(shop, tmp_path, boost) == [0, 4, 1, 2, 3]
    assert page(shop, tmp_path, {"do": "bury", "items": ["i0"], "by": 0.6}) == [1, 2, 3, 0, 4]
    assert page(shop, tmp_path, {"do": "bury", "items": ["i0"]}) == [1, 2, 3, 4, 5]


def test_only_rules_add_up_and_a_block_beats_a_pin(shop: Generation, tmp_path: Path) -> None:
    only = [{"do": "only", "items": [name]} for name in ("i3", "i6")]
    assert page(shop, tmp_path, *only) == [3, 6]
    both = [{"do": "pin", "items": ["i7"], "place": 1}, {"do": "block", "items": ["i7"]}]
    assert page(shop, tmp_path, *both) == [0, 1, 2, 3, 4]


def test_rules_for_a_segment_are_for_its_users(shop: Generation, tmp_path: Path) -> None:
    rule = {"do": "block", "items": ["i0"], "users": {"segment": ["pro"]}}
    assert page(shop, tmp_path, rule)[0] == 0
    for user_id, first in (("u0", 0), ("u1", 1)):
        code = shop.users.codes("segment")[shop.users.row(user_id)]
        query = Query(limit=5, user={"segment": np.asarray(code)})
        assert page(shop, tmp_path, rule, query=query)[0] == first


def test_a_rule_on_what_is_not_there_is_on_nothing_and_says_so(
    shop: Generation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = [
        {"do": "block", "items": ["i99"]},
        {"do": "block", "where": "colour = red"},
        {"do": "block", "items": ["i0"], "users": {"age": ["1"]}},
    ]
    assert page(shop, tmp_path, *rules) == [0, 1, 2, 3, 4]
    for said in ("no item 'i99'", "no attribute 'colour'", "users have no attribute 'age'"):
        assert said in caplog.text


def test_pins_are_places_of_the_whole_list_and_not_of_a_page(
    shop: Generation, tmp_path: Path
) -> None:
    pin = {"do": "pin", "items": ["i7"], "place": 4}
    second = Query(limit=2, live={"page.rows": np.array([20, 21], np.int32)})
    assert page(shop, tmp_path, pin, query=Query(limit=2)) == [0, 1]
    assert page(shop, tmp_path, pin, query=second) == [0, 7]


def test_an_order_that_was_asked_for_has_no_pins(shop: Generation, tmp_path: Path) -> None:
    rules = [{"do": "pin", "items": ["i7"], "place": 1}, {"do": "block", "items": ["i0"]}]
    assert page(shop, tmp_path, *rules, query=Query(limit=3, sort="price")) == [1, 2, 3]


def test_a_trace_tells_which_rules_were_on_an_item(shop: Generation, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('[[rule]]\nname = "n"\ndo = "block"\nitems = ["i2"]\n')
    config = parse({**DATA, "scenes": {"home": {"rerank": {"rules": str(tmp_path / "r.toml")}}}})
    stage = build(shop, config, "home")
    found = stage.run(Query(limit=2, trace=1), FOUND)
    assert found.steps[-1].notes == ("i2: rule n", "i2: left out")
    assert found.columns[PINNED].tolist() == [0, 0]
    assert stage.run(Query(limit=2), FOUND).steps == ()


def test_conditions_hold_where_they_do_written_out_by_hand(shop: Generation) -> None:
    rows = np.array([7, 3, 0, 1, 2, 4, 5, 6])
    for text, expected in {
        'brand = "a"': {0, 1},
        "not brand = a": {2, 3, 4, 5, 6, 7},
        "category = X": {0, 1, 2, 7},
        "tags in (new, blue)": {1, 4},
        "price < 3": {0, 1},
        "price = 4": {3},
        "brand = c and (price > 6 or category = X)": {6, 7},
    }.items():
        found = holds(shop.items, condition(text), rows)
        assert set(rows[found].tolist()) == expected, text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ads": {"method": "dynamic"}}, "needs the item columns sponsor_id and bid"),
        ({"fresh": {"share": 0.1}}, "needs the item column created_at"),
        ({"explore": {"method": "thompson"}}, "needs the items' counters"),
        ({"rules": "/nowhere/rules.toml"}, "cannot be read"),
        ({"quotas": {"tags": [1, 2]}}, "no attribute of one value"),
    ],
)
def test_what_the_generation_lacks_is_named(
    shop: Generation, settings: dict[str, Any], said: str
) -> None:
    config = parse({**DATA, "scenes": {"home": {"rerank": settings}}})
    with pytest.raises(BadConfig, match=said):
        build(shop, config, "home")
