"""
What people wanted who wanted what this user did: user-based collaborative filtering.

    s(v)     = Σ_{i ∈ H ∩ H_v} vote(i) · n_i^(−α) / |H_v|^β          over all users v
    score(j) = Σ_v s(v)^p · [j ∈ H_v] / n_j^γ                        over the K most alike

H are the items of the request's history, so that a new user has neighbours at the first click
(Herlocker et al. 1999; α and β as in Aiolli 2013, https://doi.org/10.1145/2507157.2507189).
The users and what they wanted are the generation's (`jobs.user_cf`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query
from recall.channel import ranked
from recall.live import Scratch
from recall.masks import Mask
from recall.neighbours import action_weights, voting


@dataclass(frozen=True, slots=True)
class Alike:
    """Chosen on a cut of the training pairs of Gowalla."""

    item: float = 0.5  # α
    user: float = 0.5  # β
    target: float = 0.15  # γ
    power: float = 1.5  # p
    users: int = 500  # K


@dataclass(frozen=True, eq=False)
class UserCF:
    """Both directions of who wanted what, as CSR arrays."""

    user_ptr: Array  # (u + 1,) int64
    user_rows: Array  # (m,) int32
    item_ptr: Array  # (n + 1,) int64
    item_users: Array  # (l,) int32 the newest users of each item
    fame: Array  # (n,) int32 how many users wanted it, at least 1
    actions: Array  # (actions,) weights
    alike: Alike = field(default_factory=Alike)
    scratch: Scratch = field(default_factory=Scratch)

    @staticmethod
    def open(generation: Generation, config: Config) -> UserCF | None:
        """None where the generation was built without the users' items."""
        if not generation.has("user_cf"):
            return None
        found = UserCF(
            generation.array("user_cf/user_ptr"),
            generation.array("user_cf/user_rows"),
            generation.array("user_cf/item_ptr"),
            generation.array("user_cf/item_users"),
            generation.array("user_cf/fame"),
            action_weights(generation, config),
        )
        found.votes(np.zeros(1, np.int32), np.ones(1))  # compiles, or loads what was compiled
        return found

    def votes(self, rows: Array, votes: Array) -> tuple[Array, Array]:
        """Rows that the users most alike wanted, ascending, and their scores."""
        n, alike = len(self.item_ptr) - 1, self.alike
        known = (rows >= 0) & (rows < n)
        rows = np.asarray(rows[known], np.int32)
        weights = votes[known] * self.fame[rows].astype(np.float64) ** -alike.item
        users, items = self.scratch.zeros(len(self.user_ptr) - 1, n)
        found, scores = _votes(
            self.user_ptr,
            self.user_rows,
            self.item_ptr,
            self.item_users,
            rows,
            weights,
            alike.user,
            alike.power,
            alike.users,
            users,
            items,
        )
        return found, scores * self.fame[found].astype(np.float64) ** -alike.target

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        rows, votes = voting(query, self.actions)
        found, scores = self.votes(rows, votes)
        return ranked(found, scores, allowed, limit)


@numba.njit(nogil=True, cache=True)
def _votes(  # type: ignore[no-untyped-def]  # pragma: no cover
    user_ptr,
    user_rows,
    item_ptr,
    item_users,
    rows,
    weights,
    damp,
    power,
    keep,
    likeness,
    line,
):
    """`likeness` and `line` are zeros, and are left so."""
    most = 0
    for row in rows:
        most += item_ptr[row + 1] - item_ptr[row]
    users = np.empty(min(most, len(user_ptr)), np.int32)
    count = 0
    for n in range(len(rows)):
        if weights[n] > 0:
            for spot in range(item_ptr[rows[n]], item_ptr[rows[n] + 1]):
                user = item_users[spot]
                if likeness[user] == 0:
                    users[count] = user
                    count += 1
                likeness[user] += weights[n]
    alike = np.sort(users[:count])
    scores = np.empty(count)
    for n in range(count):
        size = user_ptr[alike[n] + 1] - user_ptr[alike[n]]
        scores[n] = likeness[alike[n]] / float(size) ** damp
        likeness[alike[n]] = 0
    chosen = np.argsort(-scores, kind="mergesort")[:keep]  # ties to the lower user
    touched = np.empty(len(line), np.int32)
    found = 0
    for one in chosen:
        vote = scores[one] ** power
        for spot in range(user_ptr[alike[one]], user_ptr[alike[one] + 1]):
            other = user_rows[spot]
            if line[other] == 0:
                touched[found] = other
                found += 1
            line[other] += vote
    near = np.sort(touched[:found])
    sums = np.empty(found)
    for n in range(found):
        sums[n] = line[near[n]]
        line[near[n]] = 0
    return near, sums
