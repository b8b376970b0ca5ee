"""The lexical channel against its formula written naively, at rest and live."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.errors import BadConfig, BadGeneration
from funnel.generation import Generation, Manifest
from funnel.types import Query
from recall import postings
from recall.bm25 import BM25, write_index
from recall.text import analyzer

WORDS = ["red", "blue", "shoe", "hat", "lamp", "chair", "rare", "shoe hat", "red lamp shoe", ""]
TITLES = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), max_size=30)


def table(titles: list[str], brands: list[str] | None = None) -> pa.Table:
    ids = pa.array([f"i{n:05}" for n in range(len(titles))], pa.string())
    columns = {"item_id": ids, "title": pa.array(titles, pa.string())}
    if brands is not None:
        columns["brand"] = pa.array(brands, pa.string())
    return pa.table(columns)


def opened(
    path: Path, titles: list[str], brands: list[str] | None = None, **lexical: object
) -> BM25:
    plain = {"b": 0.75, "proximity": 0.0}
    config = parse({"lexical": plain | lexical, "data": {"language": "none"}})
    return built(path, table(titles, brands), config)


def built(path: Path, items: pa.Table, config: Config) -> BM25:
    write_catalogue(path / "items", items, [], [], [])
    Manifest("g", until=0, past=0, actions=(), config=config.model_dump(mode="json")).write(path)
    generation = Generation.open(path)
    write_index(path / "bm25", generation.items, config)
    found = BM25.open(generation, config)
    assert found is not None
    return found


def naive(docs: list[list[str]], text: str, k1: float = 1.2, b: float = 0.75) -> dict[int, float]:
    """Row -> score; each document is its words, as often as they count."""
    counts = [Counter(doc) for doc in docs]
    n, mean = len(docs), sum(map(len, docs)) / max(len(docs), 1)
    scores: dict[int, float] = {}
    for word, times in Counter(text.split()).items():
        df = sum(word in count for count in counts)
        idf = math.log(1 + (n - df + 0.5) / (df + 0.5))
        for row, count in enumerate(counts):
            if tf := count[word]:
                norm = k1 * (1 - b + b * len(docs[row]) / mean)
                part = times * idf * tf * (k1 + 1) / (tf + norm)
                scores[row] = scores.get(row, 0.0) + part
    return scores


@settings(deadline=None, max_examples=40)
@given(
    TITLES,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join),
    st.sampled_from([(1.2, 0.75), (0.9, 0.4), (2.0, 0.0)]),
    st.integers(1, 12),
    st.integers(0, 2**30),
)
def test_scores_equal_the_formula_and_ties_break_by_row(
    tmp_path_factory: pytest.TempPathFactory,
    titles: list[str],
    text: str,
    k1b: tuple[float, float],
    limit: int,
    seed: int,
) -> None:
    path = tmp_path_factory.mktemp("bm25")
    channel = opened(path, titles, k1=k1b[0], b=k1b[1])
    mask = np.random.default_rng(seed).random(len(titles)) < 0.6
    expected = naive([title.split() for title in titles], text, *k1b)
    for allowed in (None, mask):
        found = channel.find(Query(text=text), allowed, limit)
        left = {r: s for r, s in expected.items() if allowed is None or allowed[r]}
        assert len(found) == min(limit, len(left))
        np.testing.assert_allclose(found.scores, [left[r] for r in found.rows.tolist()], rtol=1e-5)
        every = channel.find(Query(text=text), allowed, 1000)
        np.testing.assert_array_equal(every.rows[:limit], found.rows)
        order = sorted(zip(-every.scores.astype(float), every.rows.tolist(), strict=True))
        assert [row for _, row in order] == every.rows.tolist()


def test_the_best_of_many_are_those_of_a_whole_scan(tmp_path: Path) -> None:
    """Large enough for terms to be probed rather than read."""
    draw = np.random.default_rng(5)
    shares = 1 / np.arange(1, 400)
    titles = [
        " ".join(f"w{w}" for w in draw.choice(399, size, p=shares / shares.sum()))
        for size in draw.integers(1, 12, 5000)
    ]
    channel = opened(tmp_path, titles)
    docs = [title.split() for title in titles]
    for text in ("w300 w1", "w150 w0 w2", "w0", "w7 w7 w250 w1 w0 w3", "w398 w397"):
        expected = naive(docs, text)
        for limit in (5, 50, 700):
            found = channel.find(Query(text=text), None, limit)
            best = sorted(expected.values(), reverse=True)[:limit]
            np.testing.assert_allclose(found.scores, best, rtol=1e-5)
            scores = [expected[r] for r in found.rows.tolist()]
            np.testing.assert_allclose(scores, best, rtol=1e-5)
        half = np.arange(5000) % 1000 < 5  # the filter leaves 0.5 %
        found = channel.find(Query(text=text), half, 1000)
        assert sorted(found.rows.tolist()) == [r for r in sorted(expected) if half[r]]


def test_a_word_counts_in_each_column_as_its_boost_says(tmp_path: Path) -> None:
    titles, brands = ["red shoe", "hat", "blue"], ["acme", "red", ""]
    channel = opened(tmp_path, titles, brands)
    docs = [t.split() * 2 + b.split() for t, b in zip(titles, brands, strict=True)]
    found = channel.find(Query(text="red"), None, 10)
    expected = naive(docs, "red")
    np.testing.assert_allclose(found.scores, [expected[r] for r in found.rows.tolist()], rtol=1e-6)
    assert found.rows.tolist() == [0, 1]


def test_upserts_are_found_at_once_and_what_they_replace_is_not(tmp_path: Path) -> None:
    channel = opened(tmp_path, ["red shoe", "blue hat", "green lamp"])
    channel.upsert(np.array([1, 4], np.int32), table(["yellow chair", "red chair"]))
    assert channel.find(Query(text="hat"), None, 9).rows.tolist() == []
    assert channel.find(Query(text="chair"), None, 9).rows.tolist() == [1, 4]
    assert channel.find(Query(text="red"), None, 9).rows.tolist() == [0, 4]
    assert channel.find(Query(text="chair"), np.array([True, True, True]), 9).rows.tolist() == [1]
    allowed = np.array([True, True, True, True, True])
    assert channel.find(Query(text="chair"), allowed, 9).rows.tolist() == [1, 4]
    channel.upsert(np.array([4, 4], np.int32), table(["red sofa", "blue sofa"]))
    assert channel.find(Query(text="red"), None, 9).rows.tolist() == [0]
    assert channel.find(Query(text="blue"), None, 9).rows.tolist() == [4]


@settings(deadline=None, max_examples=25)
@given(
    TITLES, st.lists(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(WORDS))), max_size=8)
)
def test_what_is_merged_equals_what_is_built_afresh(
    tmp_path_factory: pytest.TempPathFactory,
    titles: list[str],
    batches: list[list[tuple[int, str]]],
) -> None:
    path = tmp_path_factory.mktemp("merged")
    channel, now = opened(path, titles), dict(enumerate(titles))
    for batch in batches:
        rows = np.array([row for row, _ in batch], np.int32)
        channel.upsert(rows, table([text for _, text in batch]))
        now.update(batch)
        for word in ("shoe", "rare"):
            found = channel.find(Query(text=word), None, 100)
            assert sorted(found.rows) == sorted(r for r, t in now.items() if word in t.split())
    docs = [now.get(row, "") for row in range(max(now, default=-1) + 1)]
    words, forward = channel.lexicon.merged()
    postings.write(path / "merged", words, forward)
    postings.write_index(path / "afresh", table(docs).to_batches(), {"title": 1}, str.split)
    for file in sorted((path / "afresh").iterdir()):
        assert file.read_bytes() == (path / "merged" / file.name).read_bytes(), file.name


def test_synonyms_find_each_other_and_typing_errors_their_words(tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_text("tv, television set\nnotebook => laptop  # one way\n")
    titles = ["tv stand", "television set", "laptop bag", "notebook paper", "chair", "chairs"]
    channel = opened(tmp_path / "g", titles, synonyms=str(tmp_path / "same.txt"))

    def rows(text: str) -> list[int]:
        return channel.find(Query(text=text), None, 9).rows.tolist()

    assert rows("tv") == [0, 1]
    assert sorted(rows("television set")) == [0, 1]
    assert sorted(rows("notebook")) == [2, 3]
    assert rows("laptop") == [2]
    assert rows("cahir") == [4]
    assert sorted(rows("chairx")) == [4, 5]
    assert rows("televsion") == [1]
    assert rows("hcairs") == [5]
    assert rows("zzzz") == []


def test_a_synonym_file_that_says_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_text("tv, television\nchair\n")
    with pytest.raises(BadConfig, match="line 2: 'chair'"):
        opened(tmp_path / "g", ["a"], synonyms=str(tmp_path / "same.txt"))
    with pytest.raises(BadConfig, match=r"lexical\.synonyms"):
        opened(tmp_path / "h", ["a"], synonyms=str(tmp_path / "none.txt"))


def test_words_that_stand_together_count_more(tmp_path: Path) -> None:
    titles = ["shoe blue red", "red blue shoe", "red x x shoe", "red x x x x x shoe x"]
    plain, near = opened(tmp_path / "a", titles), opened(tmp_path / "b", titles, proximity=1.0)
    before = plain.find(Query(text="red shoe"), None, 9)
    after = near.find(Query(text="red shoe"), None, 9)
    gain = dict(zip(after.rows.tolist(), after.scores, strict=True))
    for row, score in zip(before.rows.tolist(), before.scores, strict=True):
        gain[row] -= score
    assert gain[1] > gain[2] > 0
    assert gain[0] == gain[3] == 0


def test_fewer_words_will_do_until_there_are_enough_hits(tmp_path: Path) -> None:
    titles = ["red shoe large", "red shoe", "red hat", "large shoe", "shoe"]
    strict = opened(tmp_path / "a", titles, min_match=1.0, min_hits=1)
    assert strict.find(Query(text="red shoe large"), None, 9).rows.tolist() == [0]
    assert sorted(strict.find(Query(text="red hat large"), None, 9).rows.tolist()) == [0, 2]
    eager = opened(tmp_path / "b", titles, min_match=1.0, min_hits=3)
    assert sorted(eager.find(Query(text="red shoe large"), None, 9).rows.tolist()) == [0, 1, 3]
    strict.upsert(np.array([7], np.int32), table(["large red shoe now"]))
    assert sorted(strict.find(Query(text="red shoe large"), None, 9).rows.tolist()) == [0, 7]


def test_words_of_the_best_hits_join_the_query_where_a_scene_wants_them(tmp_path: Path) -> None:
    titles = ["car engine", "car engine motor", "engine motor", "flower"] + [
        f"f{n}" for n in range(40)
    ]
    scenes = {"search": {"recall": {"rm3": {"docs": 2, "terms": 5}}}}
    config = parse({"scenes": scenes, "data": {"language": "none"}})
    channel = built(tmp_path, table(titles), config)
    fed = channel.find(Query(text="car", scene="search"), None, 9)
    assert set(fed.rows.tolist()) == {0, 1, 2}
    assert fed.rows[-1] == 2
    assert set(channel.find(Query(text="car", scene="other"), None, 9).rows.tolist()) == {0, 1}


def test_chinese_is_found_by_word_by_pair_and_in_both_scripts(tmp_path: Path) -> None:
    titles = ["苹果手机 iPhone 15", "蘋果電腦", "红色跑步鞋", "Café ＡＢＣ"]
    config = parse({"data": {"language": "en"}})
    channel = built(tmp_path, table(titles), config)

    def rows(text: str) -> list[int]:
        return channel.find(Query(text=text), None, 9).rows.tolist()

    assert sorted(rows("苹果")) == [0, 1]
    assert rows("手機") == [0]
    assert rows("跑步") == [2]
    assert rows("iphones") == [0]
    assert rows("cafe") == rows("abc") == [3]
    assert analyzer("zh")("running") == ["running"]


def test_an_index_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    opened(tmp_path, ["a", "b"])
    (tmp_path / "bm25/rows.npy").unlink()
    generation = Generation.open(tmp_path)
    with pytest.raises(BadGeneration, match="build the generation again"):
        BM25.open(generation, parse({}))
