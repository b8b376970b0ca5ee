"""
An item comes, changes and goes while all services run, told over real sockets.

Only items that the shop does not have are touched, but for the last test, after which another
generation is published: the other tests in here share its services.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

from features.store import Store
from funnel.changes import end
from funnel.config import Config
from funnel.errors import NotFound
from funnel.generation import Generation
from funnel.live import CatalogueLog, LiveGeneration, LiveGenerations
from funnel.remote import RemoteCatalog, RemoteFunnel
from funnel.types import NO_ITEM, Filter

NEW = {
    "item_id": "brand-new-1",
    "title": "Quokkalicious zebrafruit lantern",
    "category": "Lighting/Lanterns",
    "brand": "Zyxwor",
    "price": 12345.0,
    "available": True,
}
ZYXWOR = (Filter("brand", ("Zyxwor",)),)
YXWORK = (Filter("brand", ("Yxwork",)),)


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    due = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < due
        time.sleep(0.02)


@contextmanager
def calling(config: Config) -> Iterator[tuple[RemoteFunnel, RemoteCatalog]]:
    with (
        RemoteFunnel(config.serve.gateway) as funnel,
        RemoteCatalog(config.serve.features) as catalog,
    ):
        yield funnel, catalog


def ids(funnel: RemoteFunnel, text: str, **asked: Any) -> list[str]:
    return [hit.item_id for hit in funnel.search(text, **asked).hits]


def titles(funnel: RemoteFunnel, text: str, **asked: Any) -> list[str]:
    return [hit.title for hit in funnel.search(text, **asked).hits]


@pytest.mark.parametrize("where", ["together", "apart"])
def test_an_item_comes_changes_and_goes(where: str, request: pytest.FixtureRequest) -> None:
    config: Config = request.getfixturevalue(where)
    with calling(config) as (funnel, catalog):
        assert catalog.upsert([NEW]).accepted == 1
        until(lambda: "brand-new-1" in ids(funnel, "quokkalicious zebrafruit"))

        page = funnel.search("zebrafruit", filters=ZYXWOR, facets=("brand",))
        assert [hit.item_id for hit in page.hits] == ["brand-new-1"]
        assert page.hits[0].title == NEW["title"]
        assert page.hits[0].attributes["price"] == "12345"
        assert dict(page.facets[0].values) == {"Zyxwor": 1}
        dear = Filter("price", low=12000, high=13000)
        assert ids(funnel, "lantern", filters=(dear,)) == ["brand-new-1"]
        until(lambda: any("quokkalicious" in s.text.lower() for s in funnel.suggest("quokk")))
        assert len(funnel.similar("brand-new-1", limit=5).hits) == 5

        changed = {**NEW, "title": "Wobbegong zebrafruit lamp", "price": 7.0, "brand": "Yxwork"}
        catalog.upsert([changed])
        until(lambda: "Wobbegong zebrafruit lamp" in titles(funnel, "wobbegong"))
        assert NEW["title"] not in titles(funnel, "quokkalicious", limit=50)
        assert ids(funnel, "zebrafruit", filters=ZYXWOR) == []
        assert ids(funnel, "zebrafruit", filters=(dear,)) == []
        assert ids(funnel, "zebrafruit", filters=YXWORK) == ["brand-new-1"]

        catalog.upsert([{**changed, "available": False}])
        until(lambda: "brand-new-1" not in ids(funnel, "wobbegong"))
        catalog.upsert([changed])
        until(lambda: "brand-new-1" in ids(funnel, "wobbegong"))

        assert catalog.delete(["brand-new-1"]) == 1
        until(lambda: "brand-new-1" not in ids(funnel, "wobbegong zebrafruit"))
        for _ in range(5):
            assert "brand-new-1" not in ids(funnel, "wobbegong zebrafruit lamp", limit=50)
            found = funnel.search("wobbegong", filters=YXWORK)
            assert found.hits == ()
        with pytest.raises(NotFound, match="no item 'brand-new-1'"):
            funnel.similar("brand-new-1")


def state(held: LiveGeneration) -> list[object]:
    items = held.generation.items
    rows = np.arange(len(items))
    alive = None if items.alive is None else items.alive.tolist()
    brands = [items.values("brand")[code] for code in items.codes("brand") if code >= 0]
    return [alive, items.item_ids(rows), items.numbers("price").tolist(), brands]


def test_what_starts_anew_ends_where_the_running_services_are(shop: Any, together: Config) -> None:
    with calling(together) as (funnel, catalog):
        rows = [{**NEW, "item_id": f"again-{n}", "title": f"Numbat {n}"} for n in range(30)]
        catalog.upsert(rows)
        catalog.upsert([{**row, "price": 3.0} for row in rows[10:]])
        catalog.delete([f"again-{n}" for n in range(15)])
        until(lambda: len(ids(funnel, "numbat", limit=40, filters=ZYXWOR)) == 15)
        running = sorted(ids(funnel, "numbat", limit=40, filters=ZYXWOR))
        states = []
        for _ in range(2):
            with ExitStack() as stack:
                store = stack.enter_context(Store.open(together, start=False))
                generations = LiveGenerations(together, store)
                stack.callback(generations.close)
                held = generations.open(shop.generation.id)
                held.follower.start()
                states.append(state(held))
                items = held.generation.items
                known = items.rows([row["item_id"] for row in rows])
                assert items.alive is not None
                there = items.alive[known]
                assert sorted(items.item_ids(known[there])) == running
                assert items.numbers("price")[known[there]].tolist() == [3.0] * 15
        assert states[0] == states[1]
        catalog.delete([row["item_id"] for row in rows])
        until(lambda: ids(funnel, "numbat", limit=40, filters=ZYXWOR) == [])


def test_a_file_of_items_is_upserted_and_deleted_on_the_command_line(
    shop: Any, together: Config, command: Callable[..., str]
) -> None:
    file, config = shop.place / "new.jsonl", ("--config", str(shop.file))
    good = {"item_id": "cli-1", "title": "Axolotl teapot", "brand": "Yxwork"}
    file.write_text("\n".join(json.dumps(one) for one in (good, {**good, "item_id": "cli-2"})))
    assert json.loads(command("upsert", str(file), *config, "--json"))["accepted"] == 2
    with calling(together) as (funnel, _):
        until(lambda: sorted(ids(funnel, "axolotl", filters=YXWORK)) == ["cli-1", "cli-2"])
        assert json.loads(command("delete", "cli-1", "cli-2", *config, "--json"))["deleted"] == 2
        until(lambda: ids(funnel, "axolotl", filters=YXWORK) == [])
    file.write_text(json.dumps({**good, "price": -1}))
    command("upsert", str(file), *config, code=1)


def test_the_next_build_has_what_came_and_not_what_went(
    shop: Any, together: Config, command: Callable[..., str]
) -> None:
    before: Generation = shop.generation
    gone = before.items.item_ids(np.array([3, 30]))
    with calling(together) as (funnel, catalog), Store.open(together, start=False) as store:
        catalog.upsert([{**NEW, "item_id": "built-in", "title": "Tardigrade lantern"}])
        catalog.delete(gone)
        position = CatalogueLog(store, 1).position()
        until(lambda: end(together.log.dir) == position)
        command("build", str(shop.data), "--config", str(shop.file), "--json")
        after: Generation = shop.generation
        assert after.manifest.catalog_position == position
        assert len(after.items) == len(before.items) - 1
        assert after.items.rows(gone).tolist() == [NO_ITEM, NO_ITEM]
        until(lambda: funnel.search("tardigrade").generation == after.id, 60)
        assert "built-in" in ids(funnel, "tardigrade", filters=ZYXWOR)
        assert funnel.similar("built-in").generation == after.id
        for id in gone:
            with pytest.raises(NotFound, match="no item"):
                funnel.similar(id)
        catalog.upsert([{**NEW, "item_id": "newer", "title": "Tardigrade lamp"}])
        until(lambda: sorted(ids(funnel, "tardigrade", filters=ZYXWOR)) == ["built-in", "newer"])
