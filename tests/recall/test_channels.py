"""What every channel promises, over a small catalogue with every kind of index."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import recall
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.errors import BadQuery
from funnel.generation import Generation, Manifest
from funnel.types import Candidates, Filter, History, Query
from jobs import als, spectral, user_cf
from jobs.live import index
from jobs.wants import of
from recall import OPENERS, sizes
from recall.als import ALS
from recall.bm25 import write_index as write_words
from recall.channel import Channel
from recall.encoder import LSA
from recall.exact import scan
from recall.filters import Filters
from recall.item_cf import HALF_LIFE, ItemCF
from recall.live import Live
from recall.nearest import Nearest
from recall.nearest import write_index as write_graph
from recall.towers import Layers, Reader, Towers
from recall.user_cf import UserCF
from recall.vector import Vector

N = 600
OTHERS = ("tfidf", "two_tower", "swing", "graph", "user_cf", "als", "spectral", "live", "new")
EVERY = {name: {"limit": 500} for name in OTHERS}
CONFIG = parse(
    {
        "scenes": {"all": {"recall": {"channels": EVERY}}},
        "data": {"multi": ["tags"], "filterable": ["category", "price", "tags"]},
    }
)
CLICK = CONFIG.all_actions.index("click")
COLOURS = ["red", "blue", "green", "yellow"]
THINGS = ["shoes", "hats", "lamps", "chairs", "bikes"]


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    path, draw = tmp_path_factory.mktemp("recall"), np.random.default_rng(3)
    titles = [f"{COLOURS[n % 4]} {THINGS[n % 5]} number {n}" for n in range(N)]
    items = pa.table(
        {
            "item_id": [f"i{n:03}" for n in range(N)],
            "title": titles,
            "category": [f"{THINGS[n % 5]}/{COLOURS[n % 4]}" for n in range(N)],
            "brand": [None] * N,
            "price": [float(n) if n % 9 else None for n in range(N)],
            "tags": pa.array([[f"t{n % 3}", f"t{n % 7}"] if n % 5 else None for n in range(N)]),
            "available": [n % 11 != 0 for n in range(N)],
        }
    )
    numbers = ["price", "available"]
    write_catalogue(path / "items", items, ["category", "brand"], ["tags"], numbers)
    for part in ("popular", "item_cf", "vector", "new"):
        (path / part).mkdir()
    np.save(path / "new/rows.npy", draw.permutation(N)[:90].astype(np.int32))
    np.save(path / "popular/rows.npy", draw.permutation(N)[:400].astype(np.int32))
    np.save(path / "popular/scores.npy", np.linspace(1, 0.1, 400).astype(np.float32))
    size = draw.integers(0, 30, N)
    size[:3] = [0, 5, 8]
    np.save(path / "item_cf/indptr.npy", np.concatenate([[0], np.cumsum(size)]))
    lists = [draw.choice(N, k, replace=False) for k in size]
    np.save(path / "item_cf/indices.npy", np.concatenate(lists).astype(np.int32))
    np.save(path / "item_cf/weights.npy", draw.random(int(size.sum())).astype(np.float32))
    for name in ("graph", "swing"):  # lists of one form, whatever model made them
        shutil.copytree(path / "item_cf", path / name)
    lengths = np.concatenate([[0, 1], draw.integers(2, 9, 300)])
    clicks = draw.integers(1, N, lengths.sum())  # nobody clicked row 0
    index(np.concatenate([[0], np.cumsum(lengths)]), clicks, N).write(path / "live")
    users = np.repeat(np.arange(80), 12)
    found = of(users, draw.integers(1, N, len(users)), np.arange(len(users)), N)
    user_cf.write(path / "user_cf", found)
    spectral.write(path / "spectral", spectral.train(found, spectral.Spectral(width=8)))
    model = als.ALS(width=8, rounds=2)
    als.write(path / "als", *als.factors(found, model), model, CONFIG.vectors)
    encoder = LSA.train(titles, 16, 1)
    encoder.save(path / "vector/encoder")
    np.save(path / "vector/text.npy", encoder.encode(titles))
    vectors = draw.normal(size=(N, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[::10] = 0
    np.save(path / "vector/behaviour.npy", vectors)
    reader = Reader(1 << 10, "en", ("title",), ("category", "tags"))
    shapes = ((12, 8), (8,), (8, 12), (12,))
    layers = (
        Layers(*(draw.normal(size=shape).astype(np.float32) for shape in shapes)) for _ in range(3)
    )
    words, ids = (draw.normal(size=(k, 12)).astype(np.float32) for k in (1 << 10, N))
    towers = Towers(reader, words, ids, *layers)
    (path / "two_tower").mkdir()
    towers.save(path / "two_tower/towers")
    towered = towers.of_items(reader.items(items), np.arange(N))
    towered[0] = 0
    np.save(path / "two_tower/items.npy", towered)
    table = CONFIG.model_dump(mode="json")
    Manifest("g", until=0, past=0, actions=CONFIG.all_actions, config=table).write(path)
    opened = Generation.open(path)
    write_words(path / "bm25", opened.items, CONFIG)
    return opened


CHANNELS = [
    "bm25",
    "tfidf",
    "vector",
    "two_tower",
    "item_cf",
    "swing",
    "graph",
    "user_cf",
    "als",
    "spectral",
    "live",
    "popular",
    "new",
]
QUERIES = {
    "nothing": Query(),
    "words": Query(text="red shoes number 8"),
    "emoji": Query(text="🎉"),
    "history": Query(
        history=History(
            np.array([5, 7, 9], np.int32), np.full(3, CLICK, np.int8), np.array([1, 2, 3])
        )
    ),
    "item": Query(item=4),
    "cold item": Query(item=0),
}


@pytest.fixture(scope="module")
def channels(generation: Generation) -> dict[str, Channel]:
    return dict(recall.Parts.open(generation, CONFIG).channels)


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("limit", [1, 7, 500])
def test_a_channel_returns_allowed_rows_once_best_first_and_repeats_itself(
    channels: dict[str, Channel], name: str, query: Query, limit: int
) -> None:
    channel = channels[name]
    draw = np.random.default_rng(limit)
    for mask in (None, draw.random(N) < 0.5, draw.random(N) < 0.02, np.zeros(N, bool)):
        found = channel.find(query, mask, limit)
        assert len(found) <= limit
        assert len(set(found.rows.tolist())) == len(found)
        assert np.all(np.isfinite(found.scores))
        assert np.all(np.diff(found.scores) <= 0)
        ties = np.flatnonzero(np.diff(found.scores) == 0)
        assert np.all(found.rows[ties] < found.rows[ties + 1]) or name == "popular"
        assert mask is None or mask[found.rows].all()
        again = channel.find(query, mask, limit)
        np.testing.assert_array_equal(found.rows, again.rows)
        np.testing.assert_array_equal(found.scores, again.scores)


def test_neighbours_add_up_over_the_history_as_written_naively(generation: Generation) -> None:
    channel = ItemCF.open(generation, CONFIG)
    assert channel is not None
    history = QUERIES["history"].history
    naive: dict[int, float] = {}
    for ago, row in enumerate(history.rows[::-1]):
        for place in range(channel.indptr[row], channel.indptr[row + 1]):
            other = int(channel.indices[place])
            vote = 2 ** (-ago / HALF_LIFE)
            naive[other] = naive.get(other, 0.0) + vote * float(channel.weights[place])
    found = channel.find(Query(history=history), None, N)
    assert set(found.rows.tolist()) == set(naive)
    expected = [naive[int(row)] for row in found.rows]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)


def test_the_graph_finds_what_the_scan_finds(
    generation: Generation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "SMALL", 10)
    vectors = np.asarray(generation.array("vector/behaviour"))
    (tmp_path / "vector").mkdir()
    np.save(tmp_path / "vector/behaviour.npy", vectors)
    write_graph(tmp_path / "vector/behaviour.faiss", vectors, CONFIG.vectors)
    draft = Generation(tmp_path, generation.manifest)
    nearest = Nearest.open(draft, "vector/behaviour", CONFIG.vectors)
    assert nearest is not None
    assert nearest.index is not None
    draw = np.random.default_rng(1)
    half = draw.random(N) < 0.5
    hits = total = 0
    for _ in range(20):
        asked = draw.normal(size=12).astype(np.float32)
        for mask in (None, half):
            graph, _ = nearest.walk(asked, mask, 50, 256)
            exact, _ = scan(vectors, asked, mask, 50)
            assert mask is None or mask[graph].all()
            hits += len(np.intersect1d(graph, exact))
            total += len(exact)
    assert hits / total >= 0.95


def test_a_typo_still_finds_its_words(generation: Generation) -> None:
    channel = Vector.open(generation, CONFIG)
    assert channel is not None
    found = channel.find(Query(text="gren chaires"), None, 10)
    titles = [generation.items.titles[int(row)].as_py() for row in found.rows]
    assert sum("chairs" in title for title in titles) >= 8


@pytest.mark.parametrize(
    ("condition", "naive"),
    [
        (Filter("category", ("shoes",)), lambda i: i["category"].startswith("shoes/")),
        (Filter("category", ("shoes/red", "hats")), None),
        (Filter("price", low=10, high=20), lambda i: i["price"] and 10 <= i["price"] <= 20),
        (Filter("price", low=590, exclude=True), lambda i: not (i["price"] or 0) >= 590),
        (Filter("tags", ("t2",)), lambda i: "t2" in (i["tags"] or [])),
        (Filter("tags", ("t2",), exclude=True), lambda i: "t2" not in (i["tags"] or [])),
        (Filter("category", ("nowhere",)), lambda i: False),
    ],
)
def test_a_filter_keeps_what_it_says(generation: Generation, condition: Filter, naive) -> None:
    filters = Filters.open(generation, CONFIG)
    naive = naive or (lambda i: i["category"] == "shoes/red" or i["category"].startswith("hats/"))
    mask = filters.allowed(Query(filters=(condition,), excluded=np.array([3], np.int32)))
    items = generation.items.table.to_pylist()
    wanted = [r for r, i in enumerate(items) if naive(i) and i["available"] and r != 3]
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == wanted


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (Filter("brand", ("x",)), "cannot filter on 'brand'"),
        (Filter("weight", low=1), "cannot filter on 'weight'.*category"),
        (Filter("price", low=5, high=1), "price"),
        (Filter("category", low=1), "category"),
        (Filter("price"), "price"),
    ],
)
def test_a_filter_that_cannot_hold_is_the_callers_fault(
    generation: Generation, condition: Filter, message: str
) -> None:
    with pytest.raises(BadQuery, match=message):
        Filters.open(generation, CONFIG).allowed(Query(filters=(condition,)))


def test_without_any_evidence_what_is_popular_fills_the_list(generation: Generation) -> None:
    stage = recall.build(generation, CONFIG, "home")
    found = stage.run(Query(scene="home"), Candidates.empty())
    popular = np.asarray(generation.array("popular/rows"))
    wanted = popular[popular % 11 != 0]  # in stock
    assert found.rows.tolist()[:50] == wanted[:50].tolist()


def test_sessions_vote_as_written_naively(generation: Generation) -> None:
    channel = Live.open(generation, CONFIG)
    assert channel is not None
    near, pointer = channel.near, channel.session_ptr
    sessions = [channel.session_rows[a:b].tolist() for a, b in pairwise(pointer)]
    clicks = [17, 4, 250]  # newest first
    likes: list[tuple[float, int, int]] = []
    for n, session in enumerate(sessions):
        shared = [(ago, row) for ago, row in enumerate(clicks) if row in session]
        if shared:
            like = sum(
                near.click**ago
                * math.log(1 + len(sessions) / (1 + sum(row in s for s in sessions))) ** near.rarity
                for ago, row in shared
            )
            newer = 0.5 ** ((len(sessions) - n) / (near.recency * len(sessions)))
            place = max(p for p, row in enumerate(session) if row == shared[0][1])
            likes.append((like / math.sqrt(len(session)) * newer, n, place))
    assert len(likes) > 5
    for keep in (1000, 4):
        naive: dict[int, float] = {}
        for like, n, place in sorted(likes, reverse=True)[:keep]:
            for spot, row in enumerate(sessions[n]):
                d = spot - place
                side = near.same
                if d:
                    after, before = near.after ** (d - 1), near.back * near.before ** (-d - 1)
                    side = after if d > 0 else before
                naive[row] = naive.get(row, 0.0) + like * side
        fewer = replace(channel, near=replace(near, sessions=keep))
        rows, scores = fewer.votes(np.array(clicks, np.int32))
        assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == pytest.approx(naive)


def test_the_newest_click_comes_first_and_counts_once(generation: Generation) -> None:
    channel = Live.open(generation, CONFIG)
    assert channel is not None
    rows = np.array([5, 7, 9, 7, -1], np.int32)
    actions = np.full(5, CLICK, np.int8)
    actions[2] = CONFIG.all_actions.index("dislike")
    assert channel.clicks(History(rows, actions, np.arange(5))).tolist() == [7, 5]


def test_users_who_are_alike_vote_as_written_naively(generation: Generation) -> None:
    channel = UserCF.open(generation, CONFIG)
    assert channel is not None
    alike, pointer, fame = channel.alike, channel.user_ptr, channel.fame
    owned = [channel.user_rows[a:b].tolist() for a, b in pairwise(pointer)]
    asked = {int(owned[3][0]): 1.0, int(owned[3][1]): 0.5, int(owned[9][2]): 0.25}
    for keep in (500, 2):
        likes = []
        for user, own in enumerate(owned):
            like = sum(vote * fame[row] ** -alike.item for row, vote in asked.items() if row in own)
            if like:
                likes.append((-like / len(own) ** alike.user, user))
        naive: dict[int, float] = {}
        for like, user in sorted(likes)[:keep]:
            for row in owned[user]:
                vote = (-like) ** alike.power * fame[row] ** -alike.target
                naive[row] = naive.get(row, 0.0) + vote
        fewer = replace(channel, alike=replace(alike, users=keep))
        rows, scores = fewer.votes(np.array(list(asked), np.int32), np.array(list(asked.values())))
        assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == pytest.approx(naive)


def test_a_history_is_folded_in_by_least_squares(generation: Generation) -> None:
    channel = OPENERS["als"](generation, CONFIG)
    assert isinstance(channel, ALS)
    y = channel.items.vectors[:, :-1].astype(float) * channel.longest
    rows, votes = np.array([5, 7, 9], np.int32), np.array([1, 2, 1])
    ridge = channel.ridge * 3**channel.power
    left = channel.gram + (y[rows].T * votes) @ y[rows] + ridge * np.eye(y.shape[1])
    expected = np.linalg.solve(left, votes @ y[rows])
    np.testing.assert_allclose(channel.user(rows, votes), expected, rtol=1e-3, atol=1e-5)
