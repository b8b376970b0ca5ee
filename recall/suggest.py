"""
What a user may be about to type: titles and past queries that begin like it, and what they may have
meant where they mistyped.

    suggest/texts.arrow     text: past queries, then titles in row order
    suggest/weights.npy     (t,) float32, the more wanted the higher; past queries 1 and more
    suggest/rows.npy        (t,) int32, the item whose title it is, -1 for a query
    suggest/keys.arrow      key: the folded texts from each of their first words on, sorted
    suggest/key_texts.npy   (k,) int32, the text of each key
    suggest/words.arrow     word: the vocabulary, sorted; suggest/counts.npy (v,) how often
"""

from __future__ import annotations

import threading
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from funnel.errors import BadGeneration, BadQuery
from funnel.generation import Generation
from funnel.types import Array, Rows, Suggestion
from recall.masks import Mask
from recall.text import folded, texts
from recall.typos import Vocabulary

STARTS = 3  # words of a text that one may begin to type it with
LONGEST = 200  # characters of a prefix
MOST = 50  # suggestions
LAST = "\U0010ffff"


def key(text: str) -> str:
    """Without regard to case, width, accents and spaces."""
    text = folded(text)
    if not text.isascii():
        plain = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        text = unicodedata.normalize("NFC", "".join(plain))
    return " ".join(text.split())


def keys(text: str) -> list[str]:
    """The text from its first, second and third word on."""
    words = key(text).split(" ")
    return [" ".join(words[n:]) for n in range(min(len(words), STARTS)) if words[n]]


def write_suggest(
    path: Path, titles: Sequence[str], wanted: Array, queries: Iterable[tuple[str, int]]
) -> int:
    """Writes suggest/ from the titles of all rows, how wanted (n,) each item is (0 and more), and
    past queries with their counts; how many texts there are."""
    asked = [(" ".join(text.split()), count) for text, count in queries]
    asked = sorted((text, count) for text, count in asked if text)
    said = [*(text for text, _ in asked), *titles]
    high = np.asarray(wanted, np.float64)
    weights = np.concatenate([1 + np.log1p([count for _, count in asked]), high / (1 + high)])
    rows = np.concatenate([np.full(len(asked), -1), np.arange(len(titles))])
    found = sorted((one, place) for place, text in enumerate(said) for one in keys(text))
    counts: Counter[str] = Counter()
    for text, count in [*asked, *((title, 1) for title in titles)]:
        for word in key(text).split():
            counts[word] += count
    words = sorted(counts)
    path.mkdir(parents=True, exist_ok=True)
    _write(path / "texts.arrow", "text", said)
    _write(path / "keys.arrow", "key", [one for one, _ in found])
    _write(path / "words.arrow", "word", words)
    np.save(path / "weights.npy", weights.astype(np.float32))
    np.save(path / "rows.npy", rows.astype(np.int32))
    np.save(path / "key_texts.npy", np.array([place for _, place in found], np.int32))
    np.save(path / "counts.npy", np.array([counts[word] for word in words], np.int64))
    return len(said)


def _write(path: Path, name: str, values: Sequence[str]) -> None:
    table = pa.table({name: pa.array(values, pa.string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table, max_chunksize=max(len(table), 1))


def _read(path: Path) -> pa.StringArray:
    try:
        with pa.memory_map(str(path)) as source:
            column = pa.ipc.open_file(source).read_all().column(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise BadGeneration(f"cannot read {path}: {error}; build the generation again") from error
    return column.chunk(0) if column.num_chunks else pa.array([], pa.string())


@dataclass(frozen=True, eq=False)
class Live:
    """Titles since the generation: sorted (key, row), the title of each row."""

    keys: tuple[tuple[str, int], ...] = ()
    titles: dict[int, str] = field(default_factory=dict)


@dataclass(eq=False)
class Suggest:
    """The suggestions of one generation, memory-mapped, and titles that came since."""

    texts: pa.StringArray
    weights: Array
    rows: Rows
    keys: pa.StringArray
    key_texts: Array
    words: pa.StringArray
    counts: Array
    vocabulary: Vocabulary
    available: Mask | None  # of the generation's items; None where all are
    live: Live = field(default_factory=Live)
    writer: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def open(generation: Generation) -> Suggest | None:
        """None where the generation has no suggestions."""
        if not generation.has("suggest"):
            return None
        path, words = generation.file("suggest"), _read(generation.file("suggest/words.arrow"))
        made = Suggest(
            _read(path / "texts.arrow"),
            generation.array("suggest/weights"),
            generation.array("suggest/rows"),
            _read(path / "keys.arrow"),
            generation.array("suggest/key_texts"),
            words,
            generation.array("suggest/counts"),
            Vocabulary.of(words),
            _available(generation),
        )
        made.vocabulary.near("warming")
        return made

    def complete(
        self, prefix: str, limit: int = 10, allowed: Mask | None = None
    ) -> list[Suggestion]:
        """At most `limit` texts, the most wanted first, those that were meant instead last. Titles
        of items that are not `allowed` are not among them."""
        if not 0 < limit <= MOST:
            raise BadQuery(f"limit = {limit}: ask for 1 to {MOST} suggestions")
        if len(prefix) > LONGEST:
            raise BadQuery(f"the prefix has {len(prefix)} characters, at most {LONGEST} are read")
        typed = key(prefix)
        if not typed:
            return []
        live = self.live
        if allowed is None and self.available is not None:
            held = np.ones(
                max(len(self.available), *(row + 1 for row in live.titles or (0,))), bool
            )
            held[: len(self.available)] = self.available
            held[list(live.titles)] = True
            allowed = held
        found = self._beginning(typed, limit, allowed, live, False)
        if len(found) < limit:
            meant = self.corrected(typed)
            if meant != typed:
                more = self._beginning(meant, limit, allowed, live, True)
                known = {one.text for one in found}
                found += [
                    one for one in more or [Suggestion(meant, 0.0, True)] if one.text not in known
                ]
        return found[:limit]

    def corrected(self, text: str) -> str:
        """The folded text with the nearest known word for each that is not; the last one may have
        just begun."""
        words = key(text).split()
        fixed = [self._nearest(word, n == len(words) - 1) for n, word in enumerate(words)]
        return " ".join(fixed)

    def _nearest(self, word: str, begun: bool) -> str:
        place = _first(self.words, word)
        if place < len(self.words):
            here = str(self.words[place].as_py())
            if here == word or (begun and here.startswith(word)):
                return word
        places, edits = self.vocabulary.near(word)
        if not len(places):
            return word
        best = np.lexsort((places, -self.counts[places], edits))[0]
        return str(self.words[int(places[best])].as_py())

    def _beginning(
        self, typed: str, limit: int, allowed: Mask | None, live: Live, corrected: bool
    ) -> list[Suggestion]:
        low, high = _first(self.keys, typed), _first(self.keys, typed + LAST)
        found = np.asarray(self.key_texts[low:high])
        rows = self.rows[found]
        kept = rows < 0
        kept |= ~kept & _held(rows, allowed)
        if live.titles:
            kept &= ~np.isin(rows, np.fromiter(live.titles, np.int32, len(live.titles)))
        found = np.unique(found[kept])
        weights = self.weights[found]
        most = 4 * limit  # titles may repeat
        if len(found) > most:
            bar = np.partition(weights, len(weights) - most)[len(weights) - most]
            found, weights = found[weights >= bar], weights[weights >= bar]
        order = np.lexsort((found, -weights))[:most]
        pairs = [(float(weights[n]), str(self.texts[int(found[n])].as_py())) for n in order]
        start = bisect_left(live.keys, (typed, -1))
        for one, row in live.keys[start : start + most]:
            if one.startswith(typed) and _held(np.array([row]), allowed)[0]:
                pairs.append((0.0, live.titles[row]))
        best: dict[str, float] = {}
        for weight, text in pairs:
            best.setdefault(text, weight)
        return [Suggestion(text, weight, corrected) for text, weight in best.items()][:limit]

    def upsert(self, rows: Rows, items: pa.Table) -> None:
        """Row rows[i] has the title of items[i] now."""
        with self.writer:
            titles = {**self.live.titles}
            titles.update(zip(np.asarray(rows).tolist(), texts(items.column("title")), strict=True))
            changed = set(np.asarray(rows).tolist())
            kept = [one for one in self.live.keys if one[1] not in changed]
            kept += [(one, row) for row in sorted(changed) for one in keys(titles[row])]
            self.live = Live(tuple(sorted(kept)), titles)


def _first(values: pa.StringArray, text: str) -> int:
    """The place of the first value that is not below `text`."""
    at: Callable[[int], str] = lambda place: str(values[place].as_py())  # noqa: E731
    return bisect_left(range(len(values)), text, key=at)


def _available(generation: Generation) -> Mask | None:
    """Which items may be returned; None where all may."""
    if not generation.items.has("number", "available"):
        return None
    mask: Mask = generation.items.numbers("available") != 0  # not known counts as available
    return None if mask.all() else mask


def _held(rows: Rows, allowed: Mask | None) -> Mask:
    """Whether each row is allowed; one beyond the mask came after it, and is not."""
    if allowed is None:
        return np.ones(len(rows), bool)
    known = (rows >= 0) & (rows < len(allowed))
    held = np.zeros(len(rows), bool)
    held[known] = allowed[rows[known]]
    return held
