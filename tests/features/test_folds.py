from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.assemble import Assembler
from features.counts import Counts
from features.fold import DAY_MS, HOUR_MS, pair_names, windows_of
from features.pairs import ItemHashes
from features.pairs import write as write_pairs
from features.spec import Spec
from features.windows import reached
from features.windows import write as write_windows
from funnel.config import Config, parse
from funnel.errors import BadConfig
from funnel.types import Candidates, History, Query

UNTIL = 1_700_000_000_000
AT = UNTIL + 5 * HOUR_MS
ROWS = np.array([5, 3, 0, 1, 2, 4], np.int32)


def entry(name, fold, of, **more):
    return {"name": name, "fold": fold, "of": of, **more}


EXTRA = [
    entry("clicks", "count", "history", actions="click"),
    entry("clicks_here", "count", "history", actions="click", attribute="category", age_days=3),
    entry("lately", "window", "history", window="6h", attribute="item"),
    entry("liked", "decayed", "history", half_life=2.5, attribute="brand"),
    entry("buys", "rate", "history", actions="purchase", over="click", attribute="category"),
    entry("share", "ratio", "history", actions=["click", "cart"], attribute="category"),
    entry("per", "ratio", "history", actions="purchase", over="click", default=-1.0),
    entry("hours", "since", "history"),
    entry("hours_here", "since", "history", attribute="category", actions="click"),
    entry("brands", "distinct", "history", attribute="brand", window="2d"),
    entry("newest", "last", "history", attribute="category", n=3),
    entry("item.click", "decayed", "item", actions="click", half_life=1.0),
    entry("item.day", "window", "item", actions=["click", "cart"], window="1d"),
    entry("item.rate", "rate", "item", actions="purchase", over="click", half_life=7.0, prior=5),
    entry("item.ratio", "ratio", "item", actions="click", window="1d"),
    entry("user.click", "decayed", "user", actions="click"),
    entry("user.rate", "rate", "user", actions=["click", "cart"]),
    entry("pair.click", "decayed", "pair", actions="click"),
    entry("pair.rate", "rate", "pair", actions="click", prior=3.0),
]
TABLE = {
    "data": {"multi": ["tags"], "user_categorical": ["country"]},
    "features": {
        "half_lives": [1.0, 7.0],
        "windows": ["1h", "1d"],
        "pairs": 100,
        "users": True,
        "history": 50,
    },
}
CONFIG = parse({**TABLE, "features": {**TABLE["features"], "extra": EXTRA}})
ACTIONS = CONFIG.all_actions


@pytest.fixture(scope="module")
def served(make_generation):
    """A generation with windows and pairs."""
    generation = make_generation(config=CONFIG, until=UNTIL)
    random = np.random.default_rng(11)
    for name in ("windows", "pairs"):
        (generation.path / name).mkdir()
    for width in reached(windows_of(CONFIG), UNTIL):
        m = 12
        entries = {
            (int(UNTIL // width - b), int(r), int(a))
            for b, r, a in random.integers(0, [12, 6, 4], (m, 3))
        }
        counts = random.integers(1, 9, len(entries))
        write_windows(generation.path / "windows", width, *np.array([*entries]).T, counts)
    keys = ItemHashes(generation).keys("red shoes", np.array([5, 0, 1], np.int32))
    state = random.random((3, len(pair_names(CONFIG)))) * 9
    write_pairs(generation.path / "pairs", keys, state, 100)
    return generation, Assembler(generation, CONFIG, "search")


def user(random):
    return {f"user.{name}.7d": np.float32(random.random() * 9) for name in ("impression", "click")}


def naive(generation, query, live, row):
    """Every declared feature of one item, from its definition and one action at a time."""
    items = generation.items.table.to_pylist()
    for place, item in enumerate(items):
        item["item"] = place
    past = [
        (items[r], ACTIONS[a], query.at - t)
        for r, a, t in zip(
            query.history.rows, query.history.actions, query.history.times, strict=True
        )
    ]
    past = [p for p in past if p[2] <= 365 * DAY_MS]
    positive, nan = tuple(CONFIG.data.positive), math.nan
    own = items[row]

    def total(names, within=math.inf, same="", half=math.inf):
        if same and own[same] is None:
            return nan
        return sum(
            0.5 ** (age / DAY_MS / half)
            for item, action, age in past
            if action in names and age < within and (not same or item[same] == own[same])
        )

    clicks, buys = total(["click"]), total(["purchase"])
    out = {"clicks": clicks, "lately": total(positive, 6 * HOUR_MS, "item")}
    out["clicks_here"] = total(["click"], 3 * DAY_MS + 1, "category")
    out["liked"] = total(positive, same="brand", half=2.5)
    prior = buys / clicks if clicks else nan
    here = total(["click"], same="category")
    out["buys"] = (total(["purchase"], same="category") + 20 * prior) / (here + 20)
    both = total(["click", "cart"])
    out["share"] = total(["click", "cart"], same="category") / both if both else nan
    out["per"] = buys / clicks if clicks else -1.0
    done = [(item, age) for item, action, age in past if action in positive]
    out["hours"] = min((age for _, age in done), default=nan) / HOUR_MS
    ages = [
        age
        for item, action, age in past
        if action == "click" and own["category"] and item["category"] == own["category"]
    ]
    out["hours_here"] = min(ages, default=nan) / HOUR_MS
    brands = {i["brand"] for i, age in done if age < 2 * DAY_MS and i["brand"]}
    out["brands"] = len(brands)
    newest = [item["category"] for item, _ in done][::-1][:3] + [None] * 3
    for place in range(3):
        known = newest[place] and own["category"]
        out[f"newest.{place + 1}"] = float(newest[place] == own["category"]) if known else nan
    names = Counts.open(generation).items.names
    state = np.load(generation.path / "counters/state.npy").sum(axis=0)
    state = dict(zip(names, state, strict=True))
    shown = state["live.impression.7d"]
    rates = {a: state[f"live.{a}.7d"] / shown for a in positive}
    out["item.click"] = live["live.click.1d"]
    out["item.day"] = live["live.click.in1d"] + live["live.cart.in1d"]
    prior = rates["purchase"] / rates["click"]
    out["item.rate"] = (live["live.purchase.7d"] + 5 * prior) / (live["live.click.7d"] + 5)
    seen = live["live.impression.in1d"]
    out["item.ratio"] = live["live.click.in1d"] / seen if seen else nan
    held = {name: float(query.user.get(f"user.{name}.7d", 0)) for name in ACTIONS}
    out["user.click"] = held["click"]
    prior = rates["click"] + rates["cart"]
    out["user.rate"] = (held["click"] + held["cart"] + 20 * prior) / (held["impression"] + 20)
    prior = (live["live.click.7d"] + 20 * rates["click"]) / (live["live.impression.7d"] + 20)
    out["pair.click"] = live.get("pair.click.7d", 0)
    done, seen = live.get("pair.click.7d", nan), live.get("pair.impression.7d", nan)
    out["pair.rate"] = (done + 3 * prior) / (seen + 3)
    for name in ("clicks_here", "liked"):
        out[name] = 0.0 if math.isnan(out[name]) else out[name]  # their default
    expected = {f"extra.{name}": value for name, value in out.items()}
    for action in positive:
        prior = (live[f"live.{action}.7d"] + 20 * rates[action]) / (live["live.impression.7d"] + 20)
        done, seen = live.get(f"pair.{action}.7d", nan), live.get("pair.impression.7d", nan)
        expected[f"rate.{action}.pair"] = (done + 20 * prior) / (seen + 20)
        expected[f"log.pair.{action}.7d"] = math.log1p(done)
        expected[f"log.user.{action}.7d"] = math.log1p(held[action])
        rate = (held[action] + 20 * rates[action]) / (held["impression"] + 20)
        expected[f"rate.user.{action}"] = rate
        for window in ("1h", "1d"):
            done, seen = live[f"live.{action}.in{window}"], live[f"live.impression.in{window}"]
            expected[f"rate.{action}.in{window}"] = (done + 20 * rates[action]) / (seen + 20)
            expected[f"log.live.{action}.in{window}"] = math.log1p(done)
    return expected


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(1, 6),
            st.integers(0, 5 * DAY_MS) | st.just(366 * DAY_MS),
        ),
        max_size=12,
    ),
    st.sampled_from(["Red  shoes", "", "boots"]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_declared_feature_equals_its_definition(served, actions, text, known):
    generation, assembler = served
    actions = sorted(actions, key=lambda action: -action[2])
    rows, codes, ages = np.array(actions, np.int64).reshape(-1, 3).T
    history = History(rows.astype(np.int32), codes.astype(np.int8), AT - ages)
    held = user(np.random.default_rng(3)) if known else {}
    query = Query(scene="search", text=text, at=AT, history=history, user=held)
    columns = Counts.open(generation).hydrate(query, ROWS)
    found = Candidates(ROWS, np.zeros(6, np.float32)).with_columns(columns)
    matrix = dict(zip(assembler.names, assembler.matrix(query, found).T, strict=True))
    for i, row in enumerate(ROWS.tolist()):
        live = {name: float(column[i]) for name, column in columns.items()}
        for name, value in naive(generation, query, live, row).items():
            assert matrix[name][i] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), name


def test_the_hash_knows_the_entries():
    hashes = {Spec.of(CONFIG).hash}
    for change in ({"prior": 9.0}, {"half_life": 1.0}, {"name": "other"}, {"default": 0.5}):
        extra = [*EXTRA[:-1], EXTRA[-1]]
        extra[13] = {**extra[13], **change}
        config = parse({**TABLE, "features": {**TABLE["features"], "extra": extra}})
        hashes.add(Spec.of(config).hash)
    assert len(hashes) == 5
    back = parse(CONFIG.model_dump(mode="json"))
    assert Spec.of(back).hash == Spec.of(CONFIG).hash


def test_a_scene_without_words_has_no_pairs_of_its_own():
    assert "rate.click.pair" in Spec.of(CONFIG, "search").names("numeric")
    assert "rate.click.pair" not in Spec.of(CONFIG, "home").names("numeric")
    assert not any(".pair" in n or "user." in n for n in Spec.of(Config()).names("numeric"))


def test_missing_counts_are_missing_and_not_an_error(served):
    _, assembler = served
    bare = Candidates(ROWS, np.zeros(6, np.float32))
    columns = dict(zip(assembler.names, assembler.matrix(Query(at=AT), bare).T, strict=True))
    for name in ("extra.item.rate", "rate.click.pair", "log.live.click.in1h"):
        assert np.isnan(columns[name]).all(), name
    assert columns["extra.clicks"].tolist() == [0] * 6
    assert columns["extra.per"].tolist() == [-1] * 6


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (entry("a", "since", "item"), 'there is no since of item .* of = "history".*; known: dec'),
        (entry("A b", "since", "history"), "a name is lower-case"),
        (entry("a", "count", "history", window="7d"), "window means nothing to the count of hist"),
        (entry("a", "rate", "item", half_life=1.0, age_days=3), "age_days means nothing .* leave"),
        (entry("a", "window", "item"), "window is missing"),
        (entry("a", "window", "item", window="2h"), r"not counted in 2h: add it .* \(1h, 1d\)"),
        (entry("a", "decayed", "item", half_life=3.0), r"by 3 days: add it .* \(1, 7\)"),
        (entry("a", "decayed", "item"), r"half_life \(one of 1, 7\) is missing"),
        (entry("a", "decayed", "pair", half_life=1.0), "pairs are counted by the longest .* 7 d"),
        (entry("a", "rate", "user", window="1h"), "users are not counted in windows"),
        (entry("a", "rate", "history"), "needs over"),
        (entry("a", "ratio", "history"), "needs over = .*, or an attribute"),
        (entry("a", "count", "history", actions="impression"), "'impression' is not one .*click"),
        (entry("a", "decayed", "item", actions="view", half_life=1.0), "'view' is not one of"),
        (entry("a", "count", "history", attribute="price"), "'price'; known: item, category, br"),
        (entry("clicks", "since", "history"), "two entries are called 'clicks'"),
        (entry("a", "median", "item"), "features.extra.19.fold = 'median'"),
        (entry("a", "window", "history", window="1w"), "'a': '1w' is no window; hours"),
        (entry("a", "since", "history", wndow="1d"), "extra.19.wndow; known: name, fold, of"),
    ],
)
def test_a_bad_entry_is_refused_with_its_name_and_the_remedy(bad, said):
    with pytest.raises(BadConfig, match=said) as raised:
        parse({**TABLE, "features": {**TABLE["features"], "extra": [*EXTRA, bad]}})
    assert bad["name"] in str(raised.value) or "extra.19" in str(raised.value)


@pytest.mark.parametrize(
    ("of", "setting"), [("user", "features.users"), ("pair", "features.pairs")]
)
def test_what_is_not_counted_cannot_be_a_feature(of, setting):
    with pytest.raises(BadConfig, match=f"'a': {of}s are not counted: set {setting}"):
        parse({"features": {"extra": [entry("a", "decayed", of)]}})
