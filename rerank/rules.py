"""
The rules of a business at work: which candidates of a request are pinned, raised, lowered or left
out. The rules themselves are funnel/rulebook.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from funnel.catalogue import Catalogue
from funnel.errors import BadQuery
from funnel.generation import Generation
from funnel.holds import holds
from funnel.predicate import parse
from funnel.rulebook import Rule, RuleBook
from funnel.types import Array, Query

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ruled:
    """What the rules say of n candidates."""

    factor: NDArray[np.float64]  # (n,) on the value
    last: NDArray[np.bool_]  # (n,) below all others
    out: NDArray[np.bool_]  # (n,) not on the page
    pins: tuple[tuple[int, int], ...] = ()  # (candidate, place from 1), the first rule first
    names: dict[int, list[str]] = field(default_factory=dict)  # of the rules on a candidate

    def fixed(self, above: int, limit: int) -> dict[int, int]:
        """place -> candidate, of the pins that are on a page of `limit` places below so many. A pin
        whose place is taken has the next one; others are items like any."""
        found: dict[int, int] = {}
        for item, wanted in self.pins:
            place = wanted - above
            while place in found:
                place += 1
            if 0 < place <= limit:
                found[place] = item
        return found


@dataclass(eq=False)
class Rules:
    """The rules of `book` on one generation. Where a rule names an item, a value or an attribute
    that the generation does not have, it is on nothing, and the log says so once."""

    book: RuleBook
    items: Catalogue
    users: dict[str, dict[str, int]]  # attribute -> value -> code
    _told: set[str] = field(default_factory=set)

    @staticmethod
    def open(generation: Generation, book: RuleBook) -> Rules:
        names = generation.config.data.user_categorical if generation.has("users") else ()
        users = {
            name: {value: code for code, value in enumerate(generation.users.values(name))}
            for name in names
            if generation.users.has("codes", name)
        }
        return Rules(book, generation.items, users)

    def on(self, query: Query, rows: Array) -> Ruled:
        n = len(rows)
        found = Ruled(np.ones(n), np.zeros(n, bool), np.zeros(n, bool))
        allowed, limited = np.zeros(n, bool), False
        pins: list[tuple[int, int]] = []
        for rule in self.book.rules:
            if not rule.holds(query.scene, query.text, query.at) or not self._for(rule, query):
                continue
            wanted = self.items.rows(rule.items)
            mask = self._mask(rule, rows, wanted)
            match rule.do:
                case "block":
                    found.out[mask] = True
                case "only":
                    allowed, limited = allowed | mask, True
                case "boost" | "bury" if rule.by is not None:
                    found.factor[mask] *= rule.by
                case "bury":
                    found.last[mask] = True
                case "pin":
                    place = {int(row): i for i, row in enumerate(rows)}
                    at = [place[row] for row in wanted.tolist() if row in place]
                    pins += [(i, rule.place + k) for k, i in enumerate(dict.fromkeys(at))]
            for i in np.flatnonzero(mask).tolist():
                found.names.setdefault(i, []).append(rule.name)
        if limited:
            found.out[~allowed] = True
        kept = dict[int, int]()
        for i, at_place in pins:
            if not found.out[i]:
                kept.setdefault(i, at_place)
        return Ruled(found.factor, found.last, found.out, tuple(kept.items()), found.names)

    def _for(self, rule: Rule, query: Query) -> bool:
        """Whether the user is one of those that the rule is for."""
        for name, values in rule.users.items():
            codes = self.users.get(name)
            if codes is None:
                self._tell(f"rule '{rule.name}': users have no attribute '{name}'")
                return False
            code = query.user.get(name)
            if code is None or not np.isin(code, [codes.get(v, -2) for v in values]).any():
                return False
        return True

    def _mask(self, rule: Rule, rows: Array, wanted: Array) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = np.isin(rows, wanted[wanted >= 0])
        for item_id, row in zip(rule.items, wanted.tolist(), strict=True):
            if row < 0:
                self._tell(f"rule '{rule.name}': there is no item '{item_id}'")
        if rule.where.strip():
            try:
                found |= holds(self.items, parse(rule.where), rows)
            except BadQuery as error:
                self._tell(f"rule '{rule.name}': where: {error}")
        return found

    def _tell(self, said: str) -> None:
        if said not in self._told:
            self._told.add(said)
            log.warning("%s; it is on nothing", said)
