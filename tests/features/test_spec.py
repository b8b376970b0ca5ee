from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from features.spec import Spec, channels_of
from funnel.config import Config, parse

ROOT = Path(__file__).parents[2]


def test_names_are_distinct_within_a_kind():
    config = parse({"data": {"numeric": ["price", "available"], "multi": ["tags"]}})
    for kind in ("numeric", "categorical", "multi", "sequence"):
        names = Spec.of(config).names(kind)
        assert len(set(names)) == len(names) > 0


def test_the_hash_is_the_same_in_another_process():
    code = "from features.spec import Spec; from funnel.config import Config\n"
    code += "print(Spec.of(Config()).hash)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == Spec.of(Config()).hash, out.stderr


@pytest.mark.parametrize(
    "table",
    [
        {"data": {"numeric": ["price", "stars"]}},
        {"data": {"positive": {"click": 2.0, "cart": 2.0, "purchase": 4.0, "like": 1.0}}},
        {"features": {"half_lives": [1.0, 7.0]}},
        {"data": {"user_categorical": ["country"]}},
    ],
)
def test_the_hash_follows_what_features_are_made_of(table):
    assert Spec.of(parse(table)).hash != Spec.of(Config()).hash


@pytest.mark.parametrize(
    "table",
    [
        {"features": {"history": 7}},
        {"scenes": {"home": {"recall": {"keep": 9, "channels": {"popular": {"limit": 0}}}}}},
        {"store": {"url": "redis://elsewhere"}},
        {"data": {"positive": {"like": 1.0, "purchase": 4.0, "click": 1.0, "cart": 2.0}}},
    ],
)
def test_the_hash_ignores_the_rest_and_the_order_of_tables(table):
    assert Spec.of(parse(table)).hash == Spec.of(Config()).hash


def test_a_scene_has_its_own_channels():
    config = Config()
    assert channels_of(config, "search") == ("bm25", "vector")
    assert channels_of(config, "home") == ("vector", "item_cf", "popular")
    assert channels_of(config, "other") == channels_of(config, "")
    assert "recall.bm25" in Spec.of(config, "search").names("numeric")
    assert "recall.bm25" not in Spec.of(config, "home").names("numeric")
