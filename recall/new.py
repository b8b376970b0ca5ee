"""
Cold items through their content: what nobody had the time to want yet, as near as can be to what
the user wants.

    score(j) = cos(Σ_i vote(i) · v_i, v_j)       i: the newest items wanted; v: vectors of texts

Which items of the generation are cold is decided by the build (`jobs.new`); what has come since is
new whatever happens to it, and an item that was there before stays what it was when it changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
import pyarrow as pa

from funnel.config import Config
from funnel.generation import Generation
from funnel.types import Array, Candidates, Query, Rows, taken
from recall.channel import ranked
from recall.delta import Delta
from recall.encoder import Encoder, documents, load
from recall.masks import Mask
from recall.nearest import Nearest
from recall.neighbours import action_weights, interest

HALF_LIFE = 3.0  # a wanted item counts half as much as one this many actions later
RECENT = 50  # newest wanted items; what came before them counts next to nothing


@dataclass(frozen=True, eq=False)
class New:
    """Near the item that is asked about, else near the user's history; the newest where there is
    none. For a typed query it has no answer: words and vectors find new items like others.

    Vectors lie by place: the cold rows of the generation in their order, then the new ones.
    """

    newest: Array  # (c,) int32 cold rows of the generation, newest first
    cold: Array  # (c,) int32 the same, rising
    text: Array  # (n, d) float32 vectors of the generation's rows
    places: Delta
    encoder: Encoder
    actions: Array  # (actions,) weights
    columns: tuple[str, ...]  # of an item, that are its text

    @staticmethod
    def open(generation: Generation, config: Config) -> New | None:
        """None where the generation was built without it."""
        if not generation.has("new/rows.npy") or not generation.has("vector/text.npy"):
            return None
        faiss.omp_set_num_threads(1)  # requests run beside each other, not each on all cores
        newest = np.asarray(generation.array("new/rows"))
        cold, text = np.sort(newest), generation.array("vector/text")
        base = Nearest(np.asarray(text[cold]), None, config.vectors)
        base.scan_some()  # compiles, or loads what was compiled
        return New(
            newest,
            cold,
            text,
            Delta(base),
            load(generation.file("vector/encoder")),
            action_weights(generation, config),
            tuple(config.data.text),
        )

    def find(self, query: Query, allowed: Mask | None, limit: int) -> Candidates:
        if query.text:
            return Candidates.empty()
        if query.item >= 0:
            rows, votes = np.array([query.item]), np.ones(1)
        else:
            rows, votes = interest(query.history, self.actions, HALF_LIFE, RECENT)
        wanted = votes @ self.vectors_of(rows)
        length = np.linalg.norm(wanted)
        if length > 0:
            found = self.places.search(wanted / length, self.placed(allowed), limit)
            return ranked(self.rows_at(found.rows), found.scores, None, limit)
        if query.item >= 0:
            return Candidates.empty()
        return self.latest(allowed, limit)

    def latest(self, allowed: Mask | None, limit: int) -> Candidates:
        """What came since the build, the last one first, then the cold ones, newest first."""
        state, n = self.places.state, len(self.text)
        if allowed is None:
            end = max(n, int(self.rows_at(state.rows[: state.count]).max(initial=0)) + 1)
        else:
            end = len(allowed)
        rows = np.concatenate([np.arange(end - 1, n - 1, -1, dtype=np.int32), self.newest])
        return ranked(rows, 1 - np.arange(len(rows)) / max(len(rows), 1), allowed, limit)

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        """Encodes the texts of items that are new or cold; see `recall.channel.Living`."""
        places, held = self.places_of(rows)
        if held.any():
            texts = documents(items.filter(pa.array(held)), self.columns)
            self.places.upsert(places[held], self.encoder.encode(texts))

    def places_of(self, rows: Array) -> tuple[Array, Array]:
        """(k,) int32 places, and (k,) whether the rows have one."""
        spot = np.searchsorted(self.cold, rows)
        held = taken(self.cold, spot, -1) == rows
        live = rows >= len(self.text)
        places = np.where(live, rows - len(self.text) + len(self.cold), spot)
        return places.astype(np.int32), held | live

    def rows_at(self, places: Array) -> Array:
        """(k,) int32 the rows of places."""
        beyond = places - len(self.cold) + len(self.text)
        return np.where(beyond >= len(self.text), beyond, taken(self.cold, places))

    def placed(self, allowed: Mask | None) -> Mask | None:
        """The mask by place; what is newer than it is not allowed."""
        if allowed is None:
            return None
        cold, live = taken(allowed, self.cold, False), allowed[len(self.text) :]
        return np.concatenate([cold, live, np.zeros(1, bool)])

    def vectors_of(self, rows: Array) -> Array:
        """(k, d) the vectors of these rows; zeros for rows never seen."""
        found = np.array(taken(self.text, rows))
        places, held = self.places_of(rows)
        if held.any():
            found[held] = self.places.vectors_of(places[held])
        return found


__all__ = ["New"]
