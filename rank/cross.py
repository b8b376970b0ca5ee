"""
A cross-encoder for searches: a transformer that reads the query and an item's text together, far
better and far slower than anything before it, so only the best few are read, as many as there is
time for (on two CPU cores about ten, on a GPU hundreds).

Nogueira and Cho 2019, "Passage re-ranking with BERT". Any local sentence-transformers cross-encoder
will do, and jobs/train_cross.py makes one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from funnel.catalogue import Catalogue
from funnel.errors import BadConfig
from funnel.stage import remaining
from funnel.types import Array, Candidates, Floats, Query, Rows, best

COLUMN = "rank.cross"
TRAINED = "trained"  # in the place of a directory: the one that the build made
AT_ONCE = 4  # pairs between two looks at the time left
RESERVE = 1.5  # of what these took: with less time left no more are read
LONGEST = 400  # characters of an item's text
TEXT = ("title", "brand", "description")


class Reads(Protocol):
    """(k,) how well each text answers the query."""

    def __call__(self, query: str, texts: Sequence[str]) -> Array: ...


@dataclass(frozen=True, eq=False)
class Cross:
    """A stage: the best `top` candidates of a search change places among themselves, by their score
    and what the cross-encoder says; both count by how far they stand above the others of these.
    Where there was time for fewer, only these do. The scores stay those of the places.
    """

    reads: Reads
    texts: Callable[[Array], Sequence[str]]
    top: int
    weight: float

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        said = self.said(query, candidates)
        found = candidates.with_columns({COLUMN: said})
        if np.isfinite(said).sum() < 2:
            return found
        return replace(found, scores=self.moved(candidates.scores, said, candidates.rows)).top(
            len(candidates)
        )

    def said(self, query: Query, candidates: Candidates) -> Floats:
        """(n,) what the cross-encoder says of the best, NaN of all that it did not read."""
        said = np.full(len(candidates), np.nan, np.float32)
        if query.text and not query.sort and len(candidates):
            first = best(candidates.scores, candidates.rows, self.top)
            first = first[np.isfinite(candidates.scores[first])]
            found = self._read(query, self.texts(candidates.rows[first]))
            said[first[: len(found)]] = found
        return said

    def moved(self, scores: Array, said: Floats, rows: Rows) -> Array:
        """(n,) scores, of which those that were read changed places."""
        read = np.flatnonzero(np.isfinite(said))
        read = read[np.lexsort((rows[read], -scores[read]))]
        value = _scaled(scores[read]) + self.weight * _scaled(said[read])
        again = read[np.lexsort((rows[read], -value))]
        changed = scores.copy()
        changed[again] = scores[read]  # falling: the best place has the best score
        return changed

    def _read(self, query: Query, texts: Sequence[str]) -> NDArray[np.float32]:
        """What there is time for, best first."""
        found: list[Array] = []
        took = 0.0
        for start in range(0, len(texts), AT_ONCE):
            left = remaining(query)
            if left is not None and left <= RESERVE * took:
                break
            found.append(np.asarray(self.reads(query.text, texts[start : start + AT_ONCE])))
            if left is not None:
                took = left - (remaining(query) or 0.0)
        return np.concatenate(found).astype(np.float32) if found else np.empty(0, np.float32)


def _scaled(values: Array) -> NDArray[np.float64]:
    """Mean 0, deviation 1; all 0 where they are equal."""
    values = np.asarray(values, np.float64)
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


def texts_of(items: Catalogue) -> Callable[[Array], Sequence[str]]:
    """What is read of items: title, brand and description, as far as they are there."""

    def texts(rows: Array) -> Sequence[str]:
        taken = items.take(rows)
        names = [name for name in TEXT if name in taken.column_names]
        columns = [taken.column(name).to_pylist() for name in names]
        joined = (". ".join(str(p) for p in row if p) for row in zip(*columns, strict=True))
        return [text[:LONGEST] for text in joined]

    return texts


def needed(model: str, where: str) -> None:
    """Raises `BadConfig` without sentence-transformers."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise BadConfig(
            f"{where} = '{model}' needs sentence-transformers: pip install 'funnel[encoder]'"
        )


def loaded(place: str, where: str) -> Reads:
    """The cross-encoder of a directory, or of a name that is cached. Raises `BadConfig` where
    sentence-transformers or the model is missing, or it is no cross-encoder of one number."""
    needed(place, where)
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(place, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0]
        raise BadConfig(f"{where} = '{place}' cannot be loaded: {said}") from error
    if model.config.num_labels != 1:
        raise BadConfig(
            f"{where} = '{place}' gives {model.config.num_labels} numbers a pair; a "
            "cross-encoder of one is needed"
        )

    logits = nn.Identity()  # a sigmoid would make all good ones the same

    def reads(query: str, texts: Sequence[str]) -> Array:
        pairs = [(query, text) for text in texts]
        found: Array = model.predict(
            pairs, batch_size=len(pairs), show_progress_bar=False, activation_fn=logits
        )
        return found

    reads("warm up", ["now"])
    return reads
