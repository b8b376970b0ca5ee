"""Ads, rules, fatigue, chance and new items on the pages of running services."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from features.event import Event
from funnel.config import Config
from funnel.log import read
from funnel.page import Ask, Page
from funnel.remote import RemoteFeatures, RemoteFunnel
from funnel.serve import opened

ON = {
    "rules": "",
    "quotas": {"brand": [3, 10]},
    "ads": {"method": "dynamic", "floor": 0.0, "worth": 0.01},
    "fatigue": {"keep": 0.8},
    "explore": {"method": "thompson", "slots": [5, 6]},
    "fresh": {"share": 0.1},
}


@pytest.fixture(scope="module")
def busy(
    shop: Any, together: Config, configured: Callable[..., tuple[Config, Path]]
) -> Iterator[tuple[Config, Path, Path]]:
    """Services over the shop's generation and store; their file of rules."""
    place = shop.place / "busy"
    place.mkdir()
    rules = place / "rules.toml"
    rules.write_text("")
    config, file = configured(
        place,
        build={"root": together.build.root},
        store=together.store.model_dump(),
        scenes={"home": {"recall": {"keep": 2000}, "rerank": {**ON, "rules": str(rules)}}},
    )
    with ExitStack() as stack:
        for server in opened("all", config, stack):
            stack.callback(server.drain, 0)
            server.start()
        yield config, file, rules


def sponsored(config: Config, users: list[str]) -> tuple[Page, str]:
    """A page with an ad, and its item."""
    with RemoteFunnel(config.serve.gateway) as gateway:
        for user in users:
            page = gateway.page(Ask("home", user_id=user))
            for hit in page.hits:
                if hit.sponsored:
                    return page, hit.item_id
    raise AssertionError("no page had an ad")


def test_a_click_on_an_ad_is_charged_and_a_spent_budget_ends_its_ads(
    shop: Any, busy: tuple[Config, Path, Path], command: Callable[..., str]
) -> None:
    config, file, _ = busy
    people = shop.generation.users.table.column("user_id").to_pylist()
    page, item = sponsored(config, people)
    price = next(hit.price for hit in page.hits if hit.item_id == item)
    row = shop.generation.items.row(item)
    sponsor = shop.generation.items.table.column("sponsor_id")[row].as_py()
    bid = shop.generation.items.numbers("bid")[row]
    assert 0 < price <= bid + 1e-6
    command("sponsors", "--config", str(file), "--put", sponsor, "--budget", "5")
    with RemoteFeatures(config.serve.features) as features:
        time.sleep(0.5)  # offers are written off the request path
        for event_id in ("e1", "e2"):
            click = Event(people[0], item, "click", 0, event_id, request_id=page.request_id)
            assert features.track([click]).accepted == 1
    told = json.loads(command("sponsors", "--config", str(file), "--json"))
    assert told[0]["spent"] == pytest.approx(price, abs=1e-5)
    command("sponsors", "--config", str(file), "--put", sponsor, "--budget", "0")
    time.sleep(1.5)
    codes, items = shop.generation.items.codes("sponsor_id"), shop.generation.items
    with RemoteFunnel(config.serve.gateway) as gateway:
        for user in people[:20]:
            ads = [hit for hit in gateway.page(Ask("home", user_id=user)).hits if hit.sponsored]
            assert all(codes[items.row(hit.item_id)] != codes[row] for hit in ads)
    assert "is gone" in command("sponsors", "--config", str(file))
    assert (
        json.loads(command("sponsors", "--config", str(file), "--remove", sponsor, "--json")) == []
    )


def test_rules_are_at_work_as_soon_as_they_are_written(
    shop: Any, busy: tuple[Config, Path, Path], command: Callable[..., str]
) -> None:
    config, _, rules = busy
    user = shop.generation.users.table.column("user_id")[0].as_py()
    with RemoteFunnel(config.serve.gateway) as gateway:

        def page() -> Page:
            return gateway.page(Ask("home", user_id=user, trace=1))

        before = page()
        organic = [hit.item_id for hit in before.hits if not hit.sponsored]
        pinned, blocked = organic[-1], organic[0]
        rules.write_text(
            f'[[rule]]\nname = "top"\ndo = "pin"\nitems = ["{pinned}"]\nplace = 1\n'
            f'[[rule]]\nname = "gone"\ndo = "block"\nitems = ["{blocked}"]\n'
        )
        assert "top" in command("rules", str(rules))
        due = time.monotonic() + 5
        while (after := page()).hits[0].item_id != pinned and time.monotonic() < due:
            time.sleep(0.1)
        assert after.hits[0].why.startswith("pinned by a rule")
        assert blocked not in [hit.item_id for hit in after.hits]
        notes = [note for step in after.steps for note in step.notes]
        assert f"{blocked}: rule gone" in notes
        rules.write_text('[[rule]]\nname = "top"\ndo = "pin"\n')
        said = command("rules", str(rules), code=2)
        assert "rule 'top'" in said
        time.sleep(1.5)
        assert page().hits[0].item_id == pinned  # a broken file changes nothing
        rules.write_text("")


def test_a_replay_gives_pages_of_chance_and_money_again(
    shop: Any, busy: tuple[Config, Path, Path], command: Callable[..., str]
) -> None:
    config, file, rules = busy
    people = shop.generation.users.table.column("user_id").to_pylist()[:25]
    time.sleep(2.5)  # the rules of the test before are forgotten
    start = int(time.time() * 1000)
    with RemoteFunnel(config.serve.gateway) as gateway:
        pages = [gateway.page(Ask("home", user_id=user)) for user in people for _ in range(2)]
    assert rules.read_text() == ""
    explored = [hit for page in pages for hit in page.hits if 0 < hit.propensity < 1]
    assert len(explored) > 50
    time.sleep(1.5)
    entries = [entry for entry in read(config.log.dir, "home") if entry.query.at >= start]
    assert len(entries) == len(pages)
    said = json.loads(command("replay", str(file), str(file), "--scene", "home", "--json"))
    assert said["requests"] >= len(pages)
    assert said["reproduced_a"] > 0.9  # earlier pages had other rules
