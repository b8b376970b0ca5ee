"""
What people did next who did what this user does now: sessions near the user's last clicks.

    s(n)     = r(n) · Σ_i a^ago(i) · ln(1 + N / (1 + n_i))^e / √|n|       over the clicks i in n
    score(j) = Σ_n s(n) · (b^(d − 1) after i*, f · c^(−d − 1) before, g at it)   over the K best n

n are sessions, n_i how many of the N have i, i* the newest click that n shares, d the place of j
in n less that of i*, and r halves with every so many newer sessions: STAN (Garg et al. 2019,
https://doi.org/10.1145/3331184.3331322) with rare clicks saying more and each side of i* its own
decay. The index of recent sessions is the generation's (`jobs.live`); the clicks are the
request's, so that a click counts in the next request and nothing has to be rebuilt.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numba
import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, History, Query
from recall.channel import ranked
from recall.masks import Mask
from recall.neighbours import action_weights


@dataclass(frozen=True, slots=True)
class Near:
    """What is near; chosen on the last tenth of Diginetica's training sessions."""

    clicks: int = 20  # newest that look for sessions
    click: float = 0.5  # a: a click against the one after it
    sessions: int = 300  # K
    after: float = 0.8  # b
    before: float = 0.7  # c
    back: float = 0.8  # f
    same: float = 3.0  # g
    recency: float = 0.8  # r halves with every such share of all sessions
    rarity: float = 1.5  # e


class Scratch(threading.local):
    """One dense line of zeros a thread for sessions and one for items."""

    def __init__(self) -> None:
        self.sessions = np.zeros(0)
        self.items = np.zeros(0)

    def zeros(self, sessions: int, items: int) -> tuple[Array, Array]:
        if len(self.sessions) < sessions or len(self.items) < items:
            self.sessions, self.items = np.zeros(sessions), np.zeros(items)
        return self.sessions, self.items


@dataclass(frozen=True, eq=False)
class Live:
    """Recent sessions, oldest first, and where each item occurs in them, newest first."""

    session_ptr: Array  # (s + 1,) int64
    session_rows: Array  # (m,) int32 the clicks of each session in order
    item_ptr: Array  # (n + 1,) int64
    item_sessions: Array  # (l,) int32 the newest sessions with each item, newest first
    item_places: Array  # (l,) int32 the last place of the item there
    actions: Array  # (actions,) weights
    near: Near = field(default_factory=Near)
    scratch: Scratch = field(default_factory=Scratch)

    @staticmethod
    def open(generation: Generation, config: Config) -> Live | None:
        """None where the generation was built without sessions."""
        if not generation.has("live"):
            return None
        found = Live(
            generation.array("live/session_ptr"),
            generation.array("live/session_rows"),
            generation.array("live/item_ptr"),
            generation.array("live/item_sessions"),
            generation.array("live/item_places"),
            action_weights(generation, config),
        )
        found.votes(np.zeros(1, np.int32))  # compiles, or loads what was compiled
        return found

    def clicks(self, history: History) -> Array:
        """The newest items wanted, newest first, each once: (k,) rows."""
        wanted = (history.rows >= 0) & (self.actions[history.actions] > 0)
        newest = history.rows[wanted][::-1]
        _, first = np.unique(newest, return_index=True)
        return newest[np.sort(first)[: self.near.clicks]]

    def votes(self, rows: Array) -> tuple[Array, Array]:
        """Rows near the clicks `rows` (newest first), ascending, and their scores."""
        n, near = len(self.item_ptr) - 1, self.near
        rows = np.asarray(rows[(rows >= 0) & (rows < n)], np.int32)
        sessions, items = self.scratch.zeros(len(self.session_ptr) - 1, n)
        found: tuple[Array, Array] = _votes(
            self.session_ptr,
            self.session_rows,
            self.item_ptr,
            self.item_sessions,
            self.item_places,
            rows,
            near.click,
            near.sessions,
            near.after,
            near.before,
            near.back,
            near.same,
            near.recency,
            near.rarity,
            sessions,
            items,
        )
        return found

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        if query.item >= 0:
            rows = np.array([query.item], np.int32)
        else:
            rows = self.clicks(query.history)
        found, scores = self.votes(rows)
        return ranked(found, scores, allowed, limit)


@numba.njit(nogil=True, cache=True)
def _votes(  # type: ignore[no-untyped-def]  # pragma: no cover
    session_ptr,
    session_rows,
    item_ptr,
    item_sessions,
    item_places,
    rows,
    click,
    keep,
    after,
    before,
    back,
    same,
    recency,
    rarity,
    likeness,
    line,
):
    """`likeness` and `line` are zeros, and are left so."""
    most = 0
    for row in rows:
        most += item_ptr[row + 1] - item_ptr[row]
    sessions = np.empty(most, np.int32)
    places = np.empty(most, np.int32)  # of the newest click that the session shares
    total = len(session_ptr) - 1
    count = 0
    for n in range(len(rows)):
        with_it = item_ptr[rows[n] + 1] - item_ptr[rows[n]]
        weight = click**n * np.log(1 + total / (1.0 + with_it)) ** rarity
        for spot in range(item_ptr[rows[n]], item_ptr[rows[n] + 1]):
            session = item_sessions[spot]
            if likeness[session] == 0:
                sessions[count] = session
                places[count] = item_places[spot]
                count += 1
            likeness[session] += weight
    scores = np.empty(count)
    for n in range(count):
        session = sessions[n]
        size = session_ptr[session + 1] - session_ptr[session]
        newer = 0.5 ** ((total - session) / (recency * total))
        scores[n] = likeness[session] / np.sqrt(size) * newer
        likeness[session] = 0
    chosen = np.arange(count)
    if count > keep:
        worst = np.partition(scores, count - keep)[count - keep]
        above = np.flatnonzero(scores > worst)
        ties = np.flatnonzero(scores == worst)
        # The newest of equal sessions.
        newest = ties[np.argsort(-sessions[ties].astype(np.int64), kind="mergesort")]
        chosen = np.concatenate((above, newest[: keep - len(above)]))
    # In the order of the sessions: sums do not depend on how they were found.
    chosen = chosen[np.argsort(sessions[chosen], kind="mergesort")]
    touched = np.empty(len(line), np.int32)
    found = 0
    for one in chosen:
        start, end = session_ptr[sessions[one]], session_ptr[sessions[one] + 1]
        for spot in range(start, end):
            gap = spot - start - places[one]
            if gap > 0:
                vote = scores[one] * after ** (gap - 1)
            elif gap < 0:
                vote = scores[one] * back * before ** (-gap - 1)
            else:
                vote = scores[one] * same
            if vote > 0:
                row = session_rows[spot]
                if line[row] == 0:
                    touched[found] = row
                    found += 1
                line[row] += vote
    near = np.sort(touched[:found])
    sums = np.empty(found)
    for n in range(found):
        sums[n] = line[near[n]]
        line[near[n]] = 0
    return near, sums
