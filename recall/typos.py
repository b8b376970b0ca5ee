"""
Words like a word: few letters left out, put in, changed or swapped with the next one.

The distance is that of optimal string alignment (Damerau 1964; Boytsov 2011, "Indexing methods for
approximate dictionary searching"). Candidates share the first letter, or have the first two
swapped: hardly anybody mistypes the first, and of a sorted vocabulary only a part need be read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import pyarrow as pa

from funnel.types import Array

SHORT, LONG = 4, 8  # letters from which one edit, and two, are forgiven


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Sorted words as bytes."""

    ends: Array  # (v + 1,) int32
    letters: Array  # uint8

    @staticmethod
    def of(words: pa.StringArray) -> Vocabulary:
        """The buffers of the array themselves: nothing is copied."""
        _, ends, letters = words.buffers()
        if not len(words) or letters is None:
            return Vocabulary(np.zeros(1, np.int32), np.empty(0, np.uint8))
        offsets = np.frombuffer(ends, np.int32)[words.offset : words.offset + len(words) + 1]
        return Vocabulary(offsets, np.frombuffer(letters, np.uint8))

    def near(self, word: str) -> tuple[Array, Array]:
        """Places of the words within the distance that a word of this length is forgiven, and
        their distances; not the word itself. Nothing for numbers and words that are not Latin."""
        letters = np.frombuffer(word.encode(), np.uint8)
        if len(letters) < SHORT or not (word.isascii() and word.isalpha()):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        most = 1 if len(letters) < LONG else 2
        firsts = sorted({int(letters[0]), int(letters[1])})
        found: tuple[Array, Array] = _near(
            self.ends, self.letters, letters, np.array(firsts, np.uint8), most
        )
        return found


@numba.njit(nogil=True, cache=True)
def _start(ends, letters, first):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The first word whose first letter is not below `first`."""
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if ends[middle] == ends[middle + 1] or letters[ends[middle]] < first:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(nogil=True, cache=True)
def _near(ends, letters, word, firsts, most):  # type: ignore[no-untyped-def]  # pragma: no cover
    found, distances = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)]
    m = len(word)
    before, last, line = (
        np.empty(m + most + 2, np.int64),
        np.empty(m + most + 2, np.int64),
        np.empty(m + most + 2, np.int64),
    )
    for first in firsts:
        low, high = _start(ends, letters, first), _start(ends, letters, np.int64(first) + 1)
        for place in range(low, high):
            n = ends[place + 1] - ends[place]
            if abs(n - m) > most:
                continue
            other = letters[ends[place] : ends[place + 1]]
            if other[0] != word[0] and (n < 2 or other[1] != word[0]):
                continue
            for j in range(n + 1):
                last[j] = j
            fits = True
            for i in range(1, m + 1):
                line[0] = i
                least = i
                for j in range(1, n + 1):
                    cost = 0 if word[i - 1] == other[j - 1] else 1
                    value = min(last[j] + 1, line[j - 1] + 1, last[j - 1] + cost)
                    if (
                        i > 1
                        and j > 1
                        and word[i - 1] == other[j - 2]
                        and word[i - 2] == other[j - 1]
                    ):
                        value = min(value, before[j - 2] + 1)
                    line[j] = value
                    least = min(least, value)
                if least > most:
                    fits = False
                    break
                before, last, line = last, line, before
            if fits and 0 < last[n] <= most:
                found.append(np.int64(place))
                distances.append(last[n])
    return np.array(found), np.array(distances)
