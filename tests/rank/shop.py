"""A small shop written by hand, with training requests in which taste decides: a user wants what
has the category of what the user did before, and cheap things a little more."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.fold import DAY_MS, counted, counter_names
from features.tokens import write_tokens
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest
from funnel.log import Logged, write
from funnel.types import Candidates, History, Query
from jobs.judged import Parted, streamed
from jobs.work import Work

UNTIL = 1_700_000_000_000
ITEMS, CATEGORIES, N = 150, 5, 24


def config(root: Path) -> Config:
    return parse(
        {
            "build": {"root": str(root / "generations")},
            "data": {"multi": ["tags"], "user_categorical": ["country"]},
            "features": {"half_lives": [1.0, 7.0]},
            "prerank": {"trees": 40, "leaves": 7},
            "rank": {"width": 4, "hidden": [16], "epochs": 3, "batch": 256, "history": 6},
            "scenes": {"home": {"prerank": {"keep": 15}, "rank": {"keep": 8}}},
        }
    )


def draft(path: Path, config: Config) -> Generation:
    """A generation without indices: the catalogue, its users and counters."""
    rows = np.arange(ITEMS)
    titles = [f"thing {row} of kind {row % CATEGORIES}" for row in rows]
    items = pa.table(
        {
            "item_id": [f"i{row:04d}" for row in rows],
            "title": titles,
            "category": [f"c{row % CATEGORIES}" for row in rows],
            "brand": [None if row % 7 == 0 else f"b{row % 11}" for row in rows],
            "tags": pa.array([[f"t{row % 3}", f"t{row % 4}"][: row % 3] for row in rows]),
            "price": [float(1 + row % 13) for row in rows],
            "created_at": UNTIL - rows * DAY_MS,
            "available": np.ones(ITEMS, int),
        }
    )
    numeric = (*config.data.numeric, "created_at", "available")
    data = config.data
    write_catalogue(path / "items", items, data.categorical, data.multi, numeric)
    write_tokens(path / "items", titles)
    users = pa.table({"user_id": [f"u{u:02d}" for u in range(30)], "country": ["fr", "de"] * 15})
    write_catalogue(path / "users", users, ["country"], [], [], key="user_id")
    names = counter_names(counted(config), config.features.half_lives)
    (path / "counters").mkdir()
    (path / "counters/names.json").write_text(json.dumps(names))
    state = np.random.default_rng(3).random((ITEMS, len(names))) * 9
    np.save(path / "counters/state.npy", state)
    Manifest(
        id="g1",
        until=UNTIL,
        past=UNTIL - 9 * DAY_MS,
        actions=config.all_actions,
        config=config.model_dump(mode="json"),
    ).write(path)
    return Generation.open(path)


def request(place: int, config: Config, draw: np.random.Generator) -> Logged:
    taste, h = int(draw.integers(CATEGORIES)), int(draw.integers(3, 9))
    at = UNTIL - 8 * DAY_MS + place * 60_000
    done = draw.integers(ITEMS // CATEGORIES, size=h) * CATEGORIES + taste
    history = History(
        done.astype(np.int32),
        np.full(h, config.all_actions.index("click"), np.int8),
        at - np.arange(h, 0, -1) * 3_600_000,
    )
    rows = draw.permutation(ITEMS)[:N].astype(np.int32)
    wish = (rows % CATEGORIES == taste) * 2.5 - (rows % 13) * 0.1 + draw.gumbel(size=N)
    labels = np.zeros(N, np.float32)
    labels[np.argsort(-wish)[:2]] = [4.0, 1.0]
    fused = np.sort(draw.random(N).astype(np.float32))[::-1].copy()
    columns = {"recall": fused, "recall.item_cf": np.where(fused > 0.5, fused, np.nan)}
    for name in counter_names(counted(config), config.features.half_lives):
        columns[name] = draw.random(N).astype(np.float32) * 9
    query = Query(f"r{place:04d}", "home", f"u{place % 30:02d}", at=at, history=history)
    return Logged(query, Candidates(rows, fused, columns), labels, np.zeros(N, np.int32))


def shop(root: Path, requests: int = 160) -> Work:
    """A build's work directory with both drafts and the samples of `home`."""
    settings = config(root)
    work = Work(root / "data", settings, UNTIL, UNTIL - 9 * DAY_MS)
    for path, _ in work.drafts:
        draft(path, settings)
    draw = np.random.default_rng(5)
    logged = [request(place, settings, draw) for place in range(requests)]
    write(work.samples / "home", logged, "part-0")
    return work


def split(work: Work) -> tuple[list[Logged], list[Logged]]:
    """The requests to train on and those to validate on."""
    parts = list(streamed(work, "home", Parted.of(work, "home")))
    train, valid = ([one for part in parts for one in part[side]] for side in (0, 1))
    return train, valid
