"""
A cross-encoder for searches: a transformer that reads the query and an item's text together, far
better and far slower than anything before it, so only the best few are read, as many as there is
time for (on two CPU cores about ten, on a GPU hundreds).

Nogueira and Cho 2019, "Passage re-ranking with BERT". Any local sentence-transformers cross-encoder
will do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from funnel.catalogue import Catalogue
from funnel.config import Cross as Settings
from funnel.errors import BadConfig
from funnel.stage import remaining
from funnel.types import Array, Candidates, Query, best

COLUMN = "rank.cross"
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
        n = len(candidates)
        said = np.full(n, np.nan, np.float32)
        if not query.text or query.sort or not n:
            return candidates.with_columns({COLUMN: said})
        order = best(candidates.scores, candidates.rows, n)
        first = order[: self.top]
        first = first[np.isfinite(candidates.scores[first])]
        found = self._read(query, self.texts(candidates.rows[first]))
        read = first[: len(found)]
        said[read] = found
        if len(read) < 2:
            return candidates.with_columns({COLUMN: said})
        value = _scaled(candidates.scores[read]) + self.weight * _scaled(found)
        again = read[np.lexsort((candidates.rows[read], -value))]
        scores = candidates.scores.copy()
        scores[again] = candidates.scores[read]  # falling: the best place has the best score
        return replace(candidates, scores=scores).with_columns({COLUMN: said}).top(n)

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


def loaded(settings: Settings, where: str) -> Reads:
    """The cross-encoder of a directory, or of a name that is cached. Raises `BadConfig` where
    sentence-transformers or the model is missing, or it is no cross-encoder of one number."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise BadConfig(
            f"{where} = '{settings.model}' needs sentence-transformers: "
            "pip install 'funnel[encoder]'"
        )
    from sentence_transformers import CrossEncoder

    try:
        model = CrossEncoder(settings.model, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        said = str(error).splitlines()[0]
        raise BadConfig(f"{where} = '{settings.model}' cannot be loaded: {said}") from error
    if model.config.num_labels != 1:
        raise BadConfig(
            f"{where} = '{settings.model}' gives {model.config.num_labels} numbers a pair; a "
            "cross-encoder of one is needed"
        )

    def reads(query: str, texts: Sequence[str]) -> Array:
        pairs = [(query, text) for text in texts]
        found: Array = model.predict(pairs, batch_size=len(pairs), show_progress_bar=False)
        return found

    reads("warm up", ["now"])
    return reads
