"""Vectors out of a small log: what is near, what has none, and what each cut may know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from funnel.catalogue import Catalogue
from funnel.config import parse
from jobs import events, item_cf, items, vectors
from jobs.work import Work
from recall.encoder import load

START, DAY = 1_700_000_000_000, 86_400_000
CONFIG = {"vectors": {"text_width": 8, "behaviour_width": 4}, "build": {"holdout": 0.1}}
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def log() -> Events:
    """Two tastes: items 0 to 4 and items 5 to 9; nobody wants the last two. `zorp` finds item 2,
    and after the first cut `quux` does."""
    draw = np.random.default_rng(2)
    made: Events = []
    for n in range(400):
        user = int(draw.integers(20))
        item = int(draw.integers(5)) + 5 * (user % 2)
        made.append(
            {
                "event_id": f"e{n:03}",
                "user_id": f"u{user}",
                "item_id": f"i{item:02}",
                "action": "click",
                "timestamp": START + n * DAY // 10,
                "query": ("zorp" if n < 200 else "quux") if item == 2 else None,
            }
        )
    return made


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object, log: Events
) -> Work:
    return built(opened(data_set(items=goods, events=log), CONFIG))


def built(work: Work) -> Work:
    items.run(work)
    events.run(work)
    item_cf.run(work)
    vectors.run(work)
    return work


def test_items_that_the_same_people_want_are_near(work: Work) -> None:
    for draft, _ in work.drafts:
        made = np.load(draft / "vector/behaviour.npy")
        assert made.shape == (12, 4)
        assert made.dtype == np.float32
        lengths = np.linalg.norm(made, axis=1)
        np.testing.assert_allclose(lengths, [1.0] * 10 + [0.0] * 2, atol=1e-6)
        near = made[:10] @ made[:10].T
        same = np.arange(10)[:, None] // 5 == np.arange(10) // 5
        assert near[same].min() > near[~same].max()


def test_text_vectors_are_what_the_encoder_says_of_the_documents(work: Work) -> None:
    made = np.load(work.draft / "vector/text.npy")
    encoder = load(work.draft / "vector/encoder")
    catalogue = Catalogue(work.draft / "items")
    alone = vectors.documents(catalogue, work.config, None)
    unclicked = [0, 1, 3, 4, 11]  # only item 2 was ever found by a query
    np.testing.assert_allclose(
        made[unclicked], encoder.encode(alone)[unclicked], rtol=1e-5, atol=1e-6
    )


def test_a_query_that_led_to_an_item_is_part_of_its_document_from_then_on(work: Work) -> None:
    happened = events.read(work)
    catalogue = Catalogue(work.draft / "items")
    for _, cut in work.drafts:
        clicked = vectors.clicked_queries(happened, work.config, cut).toArrow()
        texts = vectors.documents(catalogue, work.config, clicked)
        assert "zorp" in texts[2]
        assert not any("zorp" in text for row, text in enumerate(texts) if row != 2)
    early = vectors.clicked_queries(happened, work.config, START + 20 * DAY).toArrow()
    assert "quux" not in vectors.documents(catalogue, work.config, early)[2]
    assert "quux" in texts[2]


def test_the_most_frequent_queries_count_and_none_counts_often(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "QUERIES", 2)
    clicked = pa.table({"row": [4, 4, 4], "query": ["once", "often", "twice"], "count": [1, 99, 2]})
    text = vectors.documents(Catalogue(work.draft / "items"), parse(CONFIG), clicked)[4]
    assert text.split()[-5:] == ["often"] * 3 + ["twice"] * 2


def test_without_events_there_are_text_vectors_alone(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    work = built(opened(data_set(items=goods), CONFIG))
    assert (work.draft / "vector/text.npy").exists()
    assert not (work.draft / "vector/behaviour.npy").exists()


def test_the_same_build_gives_the_same_bytes(work: Work) -> None:
    names = ["text.npy", "behaviour.npy", "encoder/projection.npy"]
    before = [(work.draft / "vector" / name).read_bytes() for name in names]
    vectors.run(work)
    assert [(work.draft / "vector" / name).read_bytes() for name in names] == before


def test_behaviour_vectors_come_from_sequences_where_the_config_says_so(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object, log: Events
) -> None:
    settings = {**CONFIG["vectors"], "behaviour": "item2vec"}
    work = built(opened(data_set(items=goods, events=log), {**CONFIG, "vectors": settings}))
    for draft, _ in work.drafts:
        made = np.load(draft / "vector/behaviour.npy")
        assert made.shape == (12, 4)
        near = made[:10] @ made[:10].T
        same = np.arange(10)[:, None] // 5 == np.arange(10) // 5
        assert near[same].mean() > near[~same].mean() + 0.2
