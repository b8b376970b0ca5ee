from __future__ import annotations

import math
from dataclasses import replace

import pytest

from features.event import EARLIEST_MS, SKEW_MS, Event, identified, problem
from funnel.config import ACTIONS

NOW = 1_700_000_000_000
GOOD = Event("ann", "i1", "click", NOW, event_id="e1")


def test_a_good_event_has_no_problem():
    assert problem(GOOD, ACTIONS, NOW) == ""
    full = replace(GOOD, position=3, value=9.5, query="красные туфли 👟", scene="search")
    assert problem(full, ACTIONS, NOW) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": "stare"}, "unknown action 'stare'; known: impression, click"),
        ({"timestamp": NOW + SKEW_MS + 1}, "300 s in the future"),
        ({"timestamp": EARLIEST_MS - 1}, "before 1990"),
        ({"timestamp": 0}, "before 1990"),
        ({"timestamp": 1.5}, "timestamp must be epoch milliseconds, not float"),
        ({"timestamp": None}, "not NoneType"),
        ({"user_id": ""}, "user_id is empty"),
        ({"user_id": None}, "user_id must be a string, not NoneType"),
        ({"item_id": 7}, "item_id must be a string, not int"),
        ({"item_id": "x" * (1 << 20)}, "item_id has 1,048,576 bytes; at most 1,024"),
        ({"session_id": "x" * 1025}, "session_id has 1,025 bytes"),
        ({"query": "é" * 5121}, "query has 10,242 bytes; at most 10,240"),
        ({"query": "\ud800"}, "query is not valid Unicode"),
        ({"value": math.nan}, "value nan"),
        ({"value": math.inf}, "value inf"),
        ({"value": 1e13}, "value 10000000000000.0"),
        ({"value": "9"}, "value must be a number, not str"),
        ({"position": -1}, "position -1"),
        ({"position": 1.5}, "position 1.5"),
    ],
)
def test_a_bad_event_is_refused_with_the_reason(changes, said):
    assert said in problem(replace(GOOD, **changes), ACTIONS, NOW)


def test_limits_themselves_are_allowed():
    edge = replace(GOOD, timestamp=NOW + SKEW_MS, user_id="x" * 1024, query="x" * 10240, value=1e12)
    assert problem(edge, ACTIONS, NOW) == ""
    assert problem(replace(GOOD, timestamp=EARLIEST_MS), ACTIONS, NOW) == ""


def test_an_event_without_an_id_gets_one_from_its_fields():
    bare = replace(GOOD, event_id="")
    assert identified(bare).event_id == identified(replace(bare)).event_id != ""
    assert identified(bare) != identified(replace(bare, timestamp=NOW + 1))
    assert identified(replace(bare, session_id="s")) != identified(replace(bare, request_id="s"))
    assert identified(GOOD) is GOOD
