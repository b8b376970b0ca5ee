"""From a data set to pages that feel a click, over real sockets."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.event import Event
from funnel.config import Config
from funnel.errors import BadGeneration, BadQuery, NotFound
from funnel.generation import Generation
from funnel.log import read
from funnel.page import Ask, Page
from funnel.remote import RemoteFeatures, RemoteFunnel
from funnel.types import Filter


def users(shop: Any, n: int) -> list[str]:
    """Users with a history, the longest first."""
    table = shop.generation.users.table
    lengths = [len(rows or ()) for rows in table.column("item_rows").to_pylist()]
    order = np.argsort(-np.array(lengths), kind="stable")[:n]
    return table.column("user_id").take(order).to_pylist()


def asks(shop: Any) -> list[Ask]:
    texts = pq.read_table(shop.data / "queries").column("query").to_pylist()[:6]
    items = shop.generation.items.item_ids(np.array([3, 30]))
    known = users(shop, 4)
    return [
        *(Ask("search", text=text, user_id=known[0]) for text in texts),
        *(Ask("home", user_id=user) for user in [*known, "stranger", ""]),
        *(Ask("similar", item_id=item) for item in items),
    ]


def plain(page: Page) -> Page:
    """A page without what differs from one run to the next."""
    return replace(page, steps=(), ms=0.0)


def test_a_build_publishes_a_generation_with_every_part(shop: Any) -> None:
    generation: Generation = shop.generation
    for part in ("items", "users", "counters", "popular", "item_cf", "vector", "bm25", "dedup"):
        assert generation.has(part), part
    assert json.loads(shop.said["validate"])["findings"] == []
    assert len(generation.manifest.golden) >= 6
    assert generation.manifest.metrics
    # Nothing the generation knows is later than its cut.
    times = generation.users.table.column("times").to_pylist()
    assert max(max(own) for own in times if own) < generation.manifest.until


def test_all_in_one_process_and_a_process_each_give_the_same_pages(
    shop: Any, together: Config, apart: Config
) -> None:
    with RemoteFunnel(together.serve.gateway) as one, RemoteFunnel(apart.serve.gateway) as many:
        for number, ask in enumerate(asks(shop)):
            asked = replace(ask, request_id=f"r{number}", at=int(time.time() * 1000), trace=1)
            first, second = one.page(asked), many.page(asked)
            assert first.degraded == second.degraded == ()
            assert len(first.hits) == 20 or ask.scene == "search"
            assert plain(first) == plain(second), ask


def test_a_click_is_in_the_next_page(shop: Any, together: Config) -> None:
    user = users(shop, 9)[-1]
    with (
        RemoteFunnel(together.serve.gateway) as funnel,
        RemoteFeatures(together.serve.features) as features,
    ):
        before = funnel.page(Ask("home", user_id=user))
        known = {hit.item_id for hit in before.hits}
        stranger = funnel.page(Ask("home"))
        away = next(hit.item_id for hit in stranger.hits if hit.item_id not in known)
        near = funnel.page(Ask("similar", item_id=away, limit=5))
        wanted = [away, *(hit.item_id for hit in near.hits)]
        told = features.track([Event(user, item, "click", timestamp=0) for item in wanted])
        assert told.accepted == len(wanted)
        # In one millisecond the order is that of the event ids.
        assert set(features.user(user).item_ids[-len(wanted) :]) == set(wanted)
        after = funnel.page(Ask("home", user_id=user))
    assert [hit.item_id for hit in after.hits] != [hit.item_id for hit in before.hits]
    category = {hit.attributes["category"] for hit in near.hits}
    share = [
        sum(hit.attributes["category"] in category for hit in page.hits) for page in (before, after)
    ]
    assert share[1] > share[0]


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (Ask("search", text=""), BadQuery, "the query is empty"),
        (Ask("search", text="y" * 10_000), BadQuery, "10000 characters"),
        (Ask("similar", item_id="no-such"), NotFound, "no item 'no-such'"),
        (Ask("home", limit=-3), BadQuery, "limit = -3 is negative"),
        (Ask("home", limit=10_000), BadQuery, "limit = 10000 is more"),
        (Ask("home", cursor="?"), BadQuery, "the cursor '\\?' is not one of ours"),
    ],
)
def test_a_callers_fault_comes_back_in_words(
    together: Config, ask: Ask, error: type[Exception], message: str
) -> None:
    with RemoteFunnel(together.serve.gateway) as funnel, pytest.raises(error, match=message):
        funnel.page(ask)


def test_a_filter_on_an_unknown_attribute_names_the_known_ones(
    together: Config, apart: Config
) -> None:
    for config in (together, apart):
        with (
            RemoteFunnel(config.serve.gateway) as funnel,
            pytest.raises(BadQuery, match="cannot filter on 'weight'; filterable here: category"),
        ):
            funnel.page(Ask("home", filters=(Filter("weight", ("x",)),)))


def test_the_evaluation_prints_every_order_with_intervals(
    shop: Any, command: Callable[..., str]
) -> None:
    found = json.loads(
        command(
            "evaluate",
            str(shop.data),
            "--config",
            str(shop.file),
            "--requests",
            "100",
            "--json",
        )
    )
    assert set(found) == {"search", "home"}
    for report in found.values():
        assert {"page", "rank", "prerank", "recall", "popularity"} <= set(report["orders"])
        for name, figures in report["orders"].items():
            for metric, figure in figures.items():
                if metric == "AUC" and name in ("page", "popularity"):
                    assert figure["mean"] is None  # places are no scores
                else:
                    assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1
        shares = [report["survival"][name] for name in ("recall", "prerank", "rank", "rerank")]
        assert shares == sorted(shares, reverse=True)
    assert found["home"]["fidelity"] >= 0.95  # of rank's first, let through by prerank
    home = found["home"]["orders"]
    assert home["page"]["nDCG@10"]["mean"] > home["popularity"]["nDCG@10"]["mean"]


def test_a_replay_of_the_log_gives_the_logged_pages_again(
    shop: Any,
    together: Config,
    configured: Callable[..., tuple[Config, Path]],
    command: Callable[..., str],
) -> None:
    user = users(shop, 6)[-1]
    with (
        RemoteFunnel(together.serve.gateway) as gateway,
        RemoteFeatures(together.serve.features) as features,
    ):
        for ask in asks(shop):
            page = gateway.page(replace(ask, user_id=user))
            clicked = page.hits[1].item_id if page.hits else None
            if clicked:
                features.track([Event(user, clicked, "click", timestamp=0)])
    time.sleep(1.5)  # the log is written off the request path
    log = Path(together.log.dir)
    assert sum(1 for _ in read(log)) >= len(asks(shop))
    _, other = configured(
        shop.place,
        "other",
        build={"root": together.build.root},
        scenes={"home": {"rerank": {"diversity": 0.6}}},
        log={"dir": together.log.dir},
    )
    file = str(shop.file)
    same = json.loads(command("replay", file, file, "--json"))
    assert same["reproduced_a"] == same["reproduced_b"] == 1.0
    assert same["overlap"] == same["same"] == 1.0
    assert same["answered"] > 0
    differs = json.loads(command("replay", file, str(other), "--json"))
    assert differs["reproduced_a"] == 1.0
    assert differs["same"] < 1.0


def test_what_was_scored_is_what_training_would_score(
    shop: Any, together: Config, command: Callable[..., str], tmp_path: Path
) -> None:
    file, log = str(shop.file), Path(together.log.dir)
    found = json.loads(command("parity", "--config", file, "--json"))
    assert found["requests"] >= len(asks(shop)), found
    columns = found["columns"]
    assert {"prerank", "rank", "live.click.7d"} <= columns.keys()
    assert all(column["differ"] == 0 < column["compared"] for column in columns.values())
    # A log that says otherwise is found out.
    shutil.copytree(log, tmp_path / "log")
    altered = max((tmp_path / "log/candidates").glob("*.parquet"), key=lambda f: f.stat().st_size)
    table = pq.read_table(altered)
    place = table.column_names.index("live.click.7d")
    more = pc.add(table.column(place), pa.scalar(0.5, table.schema.field(place).type))
    pq.write_table(table.set_column(place, "live.click.7d", more), altered)
    said = command("parity", str(tmp_path / "log"), "--config", file, code=1)
    assert "live.click.7d" in said.split("prerank")[0]
    assert "differ" in said


def test_a_corrupt_file_is_an_error_that_names_it(shop: Any, tmp_path: Path) -> None:
    source: Generation = shop.generation
    copy = tmp_path / "copy"
    shutil.copytree(source.path, copy)
    broken = copy / "item_cf/weights.npy"
    broken.write_bytes(broken.read_bytes()[:-3] + b"bad")
    with pytest.raises(BadGeneration, match=r"item_cf/weights\.npy was changed"):
        Generation.open(copy)


def test_a_port_in_use_and_an_unknown_service_are_errors(
    shop: Any, together: Config, command: Callable[..., str]
) -> None:
    file = str(shop.file)
    said = command("serve", "features", "--config", file, code=2)
    assert together.serve.features in said.replace("\n", "")
    assert "is in use" in said.replace("\n", " ")
    assert "unknown service 'recal'" in command("serve", "recal", "--config", file, code=2)
