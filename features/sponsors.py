"""
Sponsors' money in the live store: budgets and how evenly they last, the prices that clicks on ads
were offered at, and what was spent.

    {s:<id>}           a hash: budget, since, until (epoch ms, 0: open), spent
    {o:<request id>}   a hash: item id -> [sponsor, price]; a click takes its entry out, so that it
                       is charged once
    sponsors           the set of those with a budget

A sponsor with a budget and an end spends it evenly: it takes part in the share of requests that
brings what it spent back to where it should be by now (probabilistic throttling: Agarwal et al.
2014, "Budget pacing for targeted online advertisements at LinkedIn"). Who has no budget here is not
limited.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.store import Store
from funnel.errors import BadQuery, NotFound

SPONSORS = "sponsors"
OFFER_S = 86_400  # a click later than this after its page costs nothing
SLACK = 0.02  # of the budget: spent so much too early, a sponsor pauses
# Takes an offer out, and says what it was.
CLAIM = """
local offer = redis.call('HGET', KEYS[1], ARGV[1])
if offer then redis.call('HDEL', KEYS[1], ARGV[1]) end
return offer
"""
# Adds a price to what was spent, at most up to the budget where there is one; returns what was
# charged.
CHARGE = """
local had = redis.call('HMGET', KEYS[1], 'budget', 'spent')
local price = tonumber(ARGV[1])
if had[1] then price = math.max(math.min(price, tonumber(had[1]) - tonumber(had[2] or '0')), 0) end
redis.call('HINCRBYFLOAT', KEYS[1], 'spent', string.format('%.9f', price))
return string.format('%.9f', price)
"""


@dataclass(frozen=True, slots=True)
class Sponsor:
    """`since` and `until` are epoch ms; `until` 0: the budget has no end, and is not paced."""

    sponsor_id: str
    budget: float
    spent: float = 0.0
    since: int = 0
    until: int = 0

    def rate(self, now: int) -> float:
        """The share of requests that the sponsor takes part in, in [0, 1]."""
        if self.spent >= self.budget or now < self.since or (self.until and now >= self.until):
            return 0.0
        if not self.until:
            return 1.0
        due = self.budget * (now - self.since) / (self.until - self.since)
        slack = SLACK * self.budget
        return min(max((due + slack - self.spent) / slack, 0.0), 1.0)


@dataclass(frozen=True, eq=False)
class Sponsors:
    store: Store

    def put(self, sponsor: Sponsor) -> None:
        """Sets a budget and its days; what was spent stays. Raises `BadQuery`."""
        if not sponsor.sponsor_id:
            raise BadQuery("the sponsor id is empty")
        if not 0 <= sponsor.budget < float("inf"):
            raise BadQuery(f"budget = {sponsor.budget} is no amount of money; it is 0 or more")
        if sponsor.until and not 0 < sponsor.since < sponsor.until:
            said = f"since = {sponsor.since}, until = {sponsor.until}"
            raise BadQuery(f"{said}: a budget that ends begins before that (epoch ms)")
        fields = {"budget": sponsor.budget, "since": sponsor.since, "until": sponsor.until}
        key = _sponsor(sponsor.sponsor_id)
        self.store.ask(lambda client: client.hset(key, mapping=fields), patient=True)
        self.store.ask(lambda client: client.sadd(SPONSORS, sponsor.sponsor_id), patient=True)

    def remove(self, sponsor_id: str) -> None:
        """Forgets a sponsor's budget and what was spent of it. Raises `NotFound`."""
        if not self.store.ask(lambda client: client.srem(SPONSORS, sponsor_id), patient=True):
            raise NotFound(f"no sponsor '{sponsor_id}' has a budget")
        self.store.ask(lambda client: client.delete(_sponsor(sponsor_id)), patient=True)

    def all(self) -> list[Sponsor]:
        """Those with a budget, by their ids."""
        names = self.store.ask(lambda client: client.smembers(SPONSORS), patient=True)
        return [self._read(name.decode()) for name in sorted(names)]

    def _read(self, sponsor_id: str) -> Sponsor:
        names = ("budget", "spent", "since", "until")
        key = _sponsor(sponsor_id)
        found = self.store.ask(lambda client: client.hmget(key, names), patient=True)
        budget, spent, since, until = (float(value or 0) for value in found)
        return Sponsor(sponsor_id, budget, spent, int(since), int(until))

    def offer(self, request_id: str, ads: Mapping[str, tuple[str, float]]) -> None:
        """Remembers a page's ads: item id -> (sponsor, price of a click)."""
        key = _request(request_id)
        fields = {item_id: json.dumps(ad) for item_id, ad in ads.items()}

        def add(client: Any) -> None:
            with client.pipeline(transaction=False) as pipe:
                pipe.hset(key, mapping=fields)
                pipe.expire(key, OFFER_S)
                pipe.execute()

        self.store.ask(add, patient=True)

    def charge(self, clicks: Iterable[tuple[str, str]]) -> Sequence[tuple[str, float]]:
        """Charges what was offered for clicks, (request id, item id) each, at most up to the
        sponsor's budget; (sponsor, money) for each that cost something. A click costs once."""
        charged: list[tuple[str, float]] = []
        for request_id, item_id in clicks:
            offer = self._run(CLAIM, _request(request_id), item_id)
            if offer is not None:
                sponsor, price = json.loads(offer)
                charged.append((sponsor, float(self._run(CHARGE, _sponsor(sponsor), price))))
        return charged

    def _run(self, script: str, key: str, value: str | float) -> Any:
        return self.store.ask(lambda client: client.eval(script, 1, key, value), patient=True)


def _sponsor(sponsor_id: str) -> str:
    return f"{{s:{sponsor_id}}}"


def _request(request_id: str) -> str:
    return f"{{o:{request_id}}}"
