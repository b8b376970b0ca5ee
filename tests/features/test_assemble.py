from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from features.assemble import Assembler, buckets
from features.fold import DAY_MS, ItemCounters
from features.spec import Spec
from features.tokens import words, write_tokens
from funnel.catalogue import id_hash
from funnel.config import parse
from funnel.errors import BadConfig, BadGeneration
from funnel.generation import Generation
from funnel.overlay import Change
from funnel.types import Candidates, History, Query

UNTIL = 1_700_000_000_000
AT = UNTIL + 5 * 3_600_000
CLICK, PURCHASE, DISLIKE = 1, 3, 5
HISTORY = History(
    np.array([0, 2, 0, 3, 4, 1, 0], np.int32),
    np.array([CLICK, PURCHASE, DISLIKE, CLICK, CLICK, DISLIKE, CLICK], np.int8),
    np.array([AT - d * DAY_MS for d in (400, 30, 9, 8, 7, 2, 1)], np.int64),
)
SEARCH = Query(
    scene="search",
    user_id="ann",
    text="red wide SHOE",
    at=AT,
    history=HISTORY,
    user={"country": np.asarray(0)},
)
SIMILAR = replace(SEARCH, text="", item=1)
COLD = Query(scene="home", at=AT)


@pytest.fixture(scope="module")
def assembler(generation, config):
    return Assembler(generation, config, "search")


def candidates(generation, rows, query=SEARCH):
    rows = np.asarray(rows, np.int32)
    random = np.random.default_rng(5)
    bm25, fused = random.random((2, 6)).astype(np.float32)
    bm25[2] = np.nan
    found = Candidates(rows, fused[rows], {"recall": fused[rows], "recall.bm25": bm25[rows]})
    return found.with_columns(ItemCounters.open(generation).hydrate(query, rows))


def naive(generation: Generation, query: Query, found: Candidates, i: int) -> dict[str, float]:
    """Every feature of one candidate, from its definition and one number at a time."""
    nan, config, row = math.nan, generation.config, int(found.rows[i])
    item = generation.items.table.slice(row, 1).to_pylist()[0]
    table = generation.items.table.to_pylist()
    live = {name: float(column[i]) for name, column in found.columns.items()}
    out = {f"log.{k}": math.log1p(v) for k, v in live.items() if k.startswith("live.")}
    state = np.load(generation.path / "counters/state.npy").sum(axis=0)
    total = dict(zip(ItemCounters.open(generation).names, state, strict=True))
    for action in config.data.positive:
        for days in ("1d", "7d"):
            prior = total[f"live.{action}.{days}"] / total[f"live.impression.{days}"]
            shown = live[f"live.impression.{days}"] + 20
            out[f"rate.{action}.{days}"] = (live[f"live.{action}.{days}"] + 20 * prior) / shown
        short, long = live[f"live.{action}.1d"], live[f"live.{action}.7d"]
        out[f"trend.{action}"] = math.log1p(short) - math.log1p(long / 7)
    out["item.price"] = nan if item["price"] is None else item["price"]
    out["item.available"] = item["available"]
    out["age.days"] = max(query.at - item["created_at"], 0) / DAY_MS
    asked, title = set(words(query.text)), set(words(item["title"]))
    out["query.words"], out["query.actions"] = len(asked), len(query.history)
    out["query.hour"], out["query.weekday"] = 3, 2  # 2023-11-15T03:13:20Z, a Wednesday
    out["title.query"] = len(asked & title) / len(asked) if asked else nan
    out["title.covered"] = len(asked & title) / len(title) if asked and title else nan
    out["recall"], out["recall.bm25"] = live["recall"], live["recall.bm25"]
    out["recall.vector"] = nan
    out["recall.channels"] = 0 if math.isnan(live["recall.bm25"]) else 1

    actions = generation.manifest.actions
    past = [
        (table[r], r, config.data.positive.get(actions[a], 0.0), (query.at - t) / DAY_MS)
        for r, a, t in zip(
            query.history.rows, query.history.actions, query.history.times, strict=True
        )
        if query.at - t <= 365 * DAY_MS
    ]
    liked = [(other, r, w * 0.5 ** (age / 14)) for other, r, w, age in past if w > 0]
    rapid = [(other, w * 0.5 ** (age / 3), 24 * age) for other, _, w, age in past if w > 0]
    asked_about = table[query.item] if query.item >= 0 else None
    for name in ("category", "brand"):
        coded = [(other[name], w) for other, _, w in liked if other[name] is not None]
        same = sum(w for value, w in coded if value == item[name])
        known = coded and item[name] is not None
        out[f"affinity.{name}"] = same / sum(w for _, w in coded) if known else nan
        valued = [one for one in rapid if one[0][name] is not None]
        mine = [(w, hours) for other, w, hours in valued if other[name] == item[name]]
        total = sum(w for _, w, _ in valued)
        out[f"recent.{name}"] = sum(w for w, _ in mine) / total if known else nan
        out[f"liked.{name}"] = nan if item[name] is None else math.log1p(same)
        out[f"since.{name}"] = min((hours for _, hours in mine), default=nan)
        known = asked_about is not None and asked_about[name] is not None
        out[f"same.{name}"] = float(asked_about[name] == item[name]) if known else nan
    tagged = [(set(other["tags"]), w) for other, _, w in liked if other["tags"]]
    weight = sum(w for _, w in tagged)
    shares = [sum(w for tags, w in tagged if tag in tags) for tag in item["tags"] or []]
    out["affinity.tags"] = sum(shares) / len(shares) / weight if shares and tagged else nan
    tagged = [(set(other["tags"]), w) for other, w, _ in rapid if other["tags"]]
    weight = sum(w for _, w in tagged)
    shares = [sum(w for tags, w in tagged if tag in tags) for tag in item["tags"] or []]
    out["recent.tags"] = sum(shares) / len(shares) / weight if shares and tagged else nan
    priced = [(math.log1p(o["price"]), w) for o, _, w in liked if o["price"] is not None]
    out["gap.price"] = nan
    if priced and item["price"] is not None:
        mean = sum(p * w for p, w in priced) / sum(w for _, w in priced)
        out["gap.price"] = math.log1p(item["price"]) - mean

    def dear(one):
        if one["price"] is None or one["category"] is None:
            return nan
        peers = [o["price"] for o in table if o["category"] == one["category"]]
        logs = [math.log1p(price) for price in peers if price is not None]
        return math.log1p(one["price"]) - sum(logs) / len(logs)

    chosen = [(dear(o), w) for o, _, w in liked if not math.isnan(dear(o))]
    out["item.price.in.category"], out["gap.price.in.category"] = dear(item), nan
    if chosen:
        mean = sum(d * w for d, w in chosen) / sum(w for _, w in chosen)
        out["gap.price.in.category"] = dear(item) - mean
    own = [age for _, r, _, age in past if r == row]
    out["seen.count"] = len(own)
    out["seen.hours"] = 24 * min(own) if own else nan
    for space in ("behaviour", "text"):
        vectors = np.load(generation.path / f"vector/{space}.npy").astype(float)

        def cosine(a, b, vectors=vectors):
            a, b = vectors[a], vectors[b]
            return a @ b / np.linalg.norm(a) / np.linalg.norm(b) if a.any() and b.any() else nan

        near = [cosine(row, r) for _, r, _ in liked if vectors[r].any()]
        out[f"{space}.last"] = near[-1] if near else nan
        out[f"{space}.max"] = max(near) if near else nan
        out[f"{space}.mean"] = sum(near) / len(near) if near else nan
        out[f"{space}.item"] = cosine(row, query.item) if query.item >= 0 else nan
    return out


@pytest.mark.parametrize("query", [SEARCH, SIMILAR, COLD], ids=["search", "similar", "cold"])
def test_every_feature_equals_its_definition(generation, assembler, query):
    found = candidates(generation, [5, 3, 0, 1, 2, 4], query)
    matrix = assembler.matrix(query, found)
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    assert matrix.shape == (6, len(assembler.names))
    for i in range(6):
        expected = naive(generation, query, found, i)
        assert set(expected) == set(assembler.names)
        for name, value in zip(assembler.names, matrix[i], strict=True):
            assert value == pytest.approx(expected[name], rel=2e-5, abs=1e-6, nan_ok=True), (
                name,
                int(found.rows[i]),
            )


@pytest.mark.parametrize("query", [SEARCH, SIMILAR], ids=["search", "similar"])
def test_an_items_features_do_not_depend_on_the_other_candidates(generation, assembler, query):
    whole = assembler.matrix(query, candidates(generation, np.arange(6), query))
    for rows in ([3], [5, 1], [4, 3, 2, 1, 0]):
        part = assembler.matrix(query, candidates(generation, rows, query))
        np.testing.assert_array_equal(part, whole[rows])


def test_no_candidates_make_an_empty_matrix(generation, assembler):
    for query in (SEARCH, SIMILAR, COLD):
        fields = assembler.fields(query, Candidates.empty())
        assert fields.numbers.shape == (0, len(assembler.names))
        assert fields.ids.shape == (0, len(assembler.categorical))


def test_missing_evidence_is_missing_and_not_an_error(generation, assembler):
    bare = Candidates(np.array([1, 2], np.int32), np.zeros(2, np.float32))
    matrix = assembler.matrix(SEARCH, bare)
    columns = dict(zip(assembler.names, matrix.T, strict=True))
    for name in ("log.live.click.1d", "rate.click.7d", "trend.click", "recall", "recall.bm25"):
        assert np.isnan(columns[name]).all(), name
    assert columns["recall.channels"].tolist() == [0, 0]
    assert columns["item.price"].tolist() == [20, 5]


def test_a_generation_without_parts_has_the_same_columns(make_generation, config, assembler):
    bare = make_generation(without=("counters", "vector", "tokens"))
    poor = Assembler(bare, config, "search")
    assert poor.names == assembler.names
    matrix = poor.matrix(SEARCH, candidates(bare, [0, 1, 2]))
    columns = dict(zip(poor.names, matrix.T, strict=True))
    for name in ("behaviour.max", "text.last", "title.query", "rate.click.1d"):
        assert np.isnan(columns[name]).all(), name
    assert columns["log.live.click.1d"].tolist() == [0, 0, 0]


def test_columns_that_the_data_set_lacks_are_missing(make_generation, config):
    table = {"data": {"numeric": ["price", "stars"], "categorical": ["category", "colour"]}}
    table["data"]["multi"] = ["tags", "sizes"]
    other = parse({**table, "features": {"half_lives": [1.0, 7.0]}})
    generation = make_generation()
    manifest = replace(generation.manifest, config=other.model_dump(mode="json"))
    generation = Generation(generation.path, manifest)
    assembler = Assembler(generation, other)
    fields = assembler.fields(SIMILAR, candidates(generation, [0, 1]))
    columns = dict(zip(assembler.names, fields.numbers.T, strict=True))
    stars = "item.stars", "gap.stars", "item.stars.in.category", "gap.stars.in.category"
    for name in (*stars, "affinity.colour", "same.colour", "affinity.sizes"):
        assert np.isnan(columns[name]).all(), name
    assert assembler.vocab["item.colour"] == assembler.vocab["item.sizes"] == 1
    assert fields.multi["item.sizes"][0].tolist() == [0, 0, 0]
    assert fields.ids[:, assembler.categorical.index("item.colour")].tolist() == [0, 0]


def test_fields_are_codes_from_one_with_zero_for_missing(generation, assembler):
    fields = assembler.fields(SEARCH, candidates(generation, [4, 3, 5]))
    ids = dict(zip(assembler.categorical, fields.ids.T, strict=True))
    assert ids["item.category"].tolist() == [0, 1, 2]  # missing, hats, scarves
    assert ids["item.brand"].tolist() == [2, 0, 1]
    assert ids["user.country"].tolist() == [1, 1, 1]
    assert ids["query.hour"].tolist() == [4, 4, 4]
    assert ids["query.weekday"].tolist() == [3, 3, 3]
    assert ids["item"].tolist() == [id_hash(f"i{row}") % 1024 + 1 for row in (4, 3, 5)]
    assert set(ids["user"].tolist()) == {id_hash("ann") % 1024 + 1}
    for name, column in ids.items():
        assert 0 <= column.min() <= column.max() < assembler.vocab[name]
    offsets, codes = fields.multi["item.tags"]
    assert offsets.tolist() == [0, 0, 1, 3]
    assert codes.tolist() == [3, 3, 1]  # blue, new, red are 1, 2, 3
    assert assembler.vocab["item.tags"] == 4
    matrix = assembler.matrix(SEARCH, candidates(generation, [4, 3, 5]))
    assert np.array_equal(fields.numbers, matrix, equal_nan=True)


def test_unknown_people_are_code_zero(generation, assembler):
    for user in ({}, {"country": np.asarray(-1)}, {"country": np.asarray(99)}):
        query = replace(COLD, user=user)
        fields = assembler.fields(query, candidates(generation, [0], query))
        ids = dict(zip(assembler.categorical, fields.ids[0], strict=True))
        assert ids["user"] == ids["user.country"] == 0
        assert len(fields.rows) == 0


def test_the_history_comes_as_the_same_fields_as_the_items(generation, assembler):
    unknown = History(
        np.array([0, 9, -1, 5], np.int32),
        np.array([1, 1, 1, 5], np.int8),
        np.full(4, AT - 7200_000),
    )
    query = replace(SEARCH, history=unknown)
    fields = assembler.fields(query, candidates(generation, [5, 0], query))
    assert fields.rows.tolist() == [0, 5]
    assert fields.actions.tolist() == [1, 5]
    assert fields.hours.tolist() == [2, 2]
    places = [assembler.categorical.index(name) for name in assembler.item_fields]
    assert np.array_equal(fields.items, fields.ids[::-1][:, places])
    assert np.isfinite(fields.numbers[:, assembler.names.index("seen.count")]).all()


def test_a_config_with_other_features_is_refused(generation, config):
    table = config.model_dump(mode="python")
    table["data"]["numeric"] = ("price", "stars")
    table["data"]["positive"] = {"click": 3.0}
    with pytest.raises(
        BadConfig, match=r"adds item\.stars, .*gap\.stars, .*it lacks log\.live\.cart"
    ):
        Assembler(generation, parse(table), "search")


def test_scenes_may_differ_in_channels_without_a_new_build(generation, config):
    table = config.model_dump(mode="python")
    table["scenes"]["search"]["recall"]["channels"]["popular"] = {"limit": 9}
    assembler = Assembler(generation, parse(table), "search")
    assert assembler.names == Spec.of(generation.config, "search").names("numeric")


def test_tokens_of_another_catalogue_are_an_error(make_generation, config):
    generation = make_generation()
    write_tokens(generation.path / "items", ["one", "two"])
    with pytest.raises(BadGeneration, match=r"tokens\.offsets\.npy does not fit.*build"):
        Assembler(generation, config)


def test_buckets_stay_when_a_catalogue_grows_a_little():
    assert buckets(0) == buckets(256) == 1024
    assert buckets(20_000) == buckets(30_000) == 131_072
    assert buckets(10**9) == 1 << 20


def test_vectors_shorter_than_the_catalogue_are_an_error(make_generation, config):
    generation = make_generation()
    np.save(generation.path / "vector/text.npy", np.zeros((2, 8), np.float32))
    with pytest.raises(BadGeneration, match=r"vector/text has 2 rows for 6 items"):
        Assembler(generation, config)


def test_an_item_that_came_later_has_the_features_of_one_like_it(make_generation, config):
    path = make_generation().path
    generation = Generation.open(path, check=False, live=True)
    assembler = Assembler(generation, config, "search")
    like = generation.items.take(np.array([3])).to_pylist()[0]
    other = {**like, "item_id": "later", "tags": ["red", "of late"]}
    schema = generation.items.table.schema
    changed = {**like, "price": 77.0, "title": "a blue shoe"}
    generation.items.apply([Change(pa.Table.from_pylist([other, changed], schema))])
    found = Candidates(np.array([6, 3, 7], np.int32), np.zeros(3, np.float32))
    at = dict(zip(assembler.names, assembler.matrix(SEARCH, found).T, strict=True))
    assert at["item.price"][1] == 77.0
    assert math.isnan(at["item.price"][0])
    assert at["title.query"].tolist()[:2] == pytest.approx([0.0, 1 / 3])
    for name in ("age.days", "affinity.category", "same.brand"):
        np.testing.assert_array_equal(at[name][0], at[name][1])
    assert math.isnan(at["text.max"][0])
    assert math.isnan(at["age.days"][2])  # not heard of here
    fields = assembler.fields(SEARCH, found)
    names = assembler.categorical
    assert fields.ids[0, names.index("item.brand")] == fields.ids[1, names.index("item.brand")]
    assert (
        fields.ids[0, names.index("item")] == id_hash("later") % (assembler.vocab["item"] - 1) + 1
    )
    assert fields.ids[2, names.index("item")] == 0
    offsets, codes = fields.multi["item.tags"]
    assert np.diff(offsets).tolist() == [2, 1, 0]
    assert codes[0] == codes[2] < codes[1] == assembler.vocab["item.tags"]
