"""
The words of titles as sorted hashes, so that candidates are matched with a query in one go.

    items/tokens.offsets.npy   (n + 1,) int64
    items/tokens.codes.npy     uint32, the distinct words of each title, rising
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

OFFSETS, CODES = "tokens.offsets", "tokens.codes"
# Chinese and Japanese are written without spaces: each character is a word of its own.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_CJK}]|[^\\W_{_CJK}]+")


def words(text: str) -> list[str]:
    """The words of a text without regard to case, in order."""
    return _WORD.findall(text.casefold())


def codes(text: str) -> NDArray[np.uint32]:
    """The distinct words of a text as rising 32-bit hashes."""
    hashes = {crc32(word.encode()) for word in words(text)}
    return np.array(sorted(hashes), np.uint32)


def write_tokens(path: Path, titles: Iterable[str | None]) -> None:
    """Writes the words of the titles, in row order, beside a catalogue's other columns."""
    found = [codes(title or "") for title in titles]
    lengths = np.fromiter((len(one) for one in found), np.int64, len(found))
    np.save(path / f"{OFFSETS}.npy", np.concatenate([[0], np.cumsum(lengths)]))
    np.save(path / f"{CODES}.npy", np.concatenate([np.empty(0, np.uint32), *found]))
