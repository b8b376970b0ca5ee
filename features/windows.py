"""
Items counted in windows: how many events of an action the last hour, day or month had.

A window is a whole number of buckets (`features.fold.Window`), so a count is a whole number that
does not depend on the order of events, and is the same in every process.

For each width of buckets a generation has windows/<width in ms>.npy, (m, 4) int32: bucket number
(floor(t/width)), row, action code, count; sorted, no (bucket, row, action) twice. It holds what
windows at the cut can reach; counts of older buckets do no harm.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.fold import Window, counted, window_names, windows_of
from funnel.config import Config
from funnel.errors import BadGeneration
from funnel.generation import Generation
from funnel.types import Array, Floats, Rows

BACK_MS = 600_000  # moments so much earlier than the newest event are still read exactly
FOLDER = "windows"
Cells = NDArray[np.uint32]  # row·A + action
Counted = tuple[Cells, NDArray[np.int32]]  # cells, rising, and their counts


def write(
    folder: Path, width_ms: int, buckets: Array, rows: Array, actions: Array, counts: Array
) -> int:
    """Writes the file of one width into a generation's windows/, which must be there: columns of
    one length in any order; returns the number of entries."""
    order = np.lexsort((actions, rows, buckets))
    columns = [np.asarray(column, np.int32)[order] for column in (buckets, rows, actions, counts)]
    np.save(folder / f"{width_ms}.npy", np.stack(columns, axis=1))
    return len(order)


def reached(windows: tuple[Window, ...], until: int) -> dict[int, int]:
    """Width in ms -> the oldest bucket that a window of that width at `until` reaches: what
    `write` needs is from there on."""
    oldest: dict[int, int] = {}
    for window in windows:
        first = until // window.width_ms - window.buckets + 1
        oldest[window.width_ms] = min(first, oldest.get(window.width_ms, first))
    return oldest


class ItemWindows:
    """Counts of n items in `windows`, for the actions `names` speak of; grows with the rows.

    Every window has its totals (n, A) as of the newest event, and each width of buckets what
    happened in each of them. Memory is bounded by the longest window. Changed by one thread at a
    time, with no reader meanwhile.
    """

    def __init__(self, config: Config, items: int, at: int, actions: tuple[str, ...] = ()):
        self.names, self.windows = window_names(config), windows_of(config)
        self._codes = actions or config.all_actions
        self._actions = counted(config)
        self._places = np.array(
            [self._actions.index(a) if a in self._actions else -1 for a in (*self._codes, "")]
        )
        self._buckets: dict[int, dict[int, _Bucket]] = {w.width_ms: {} for w in self.windows}
        self._totals = [np.zeros((items, len(self._actions)), np.int32) for _ in self.windows]
        self._newest = at

    @staticmethod
    def open(generation: Generation) -> ItemWindows:
        """The generation's, as of its cut; without its files all counts are zero."""
        config, manifest = generation.config, generation.manifest
        windows = ItemWindows(config, generation.items.base, manifest.until, manifest.actions)
        for width in windows._buckets:
            if not generation.has(f"{FOLDER}/{width}.npy"):
                continue
            table = generation.array(f"{FOLDER}/{width}")
            if table.ndim != 2 or table.shape[1] != 4 or (len(table) and table[:, 0].min() < 0):
                raise BadGeneration(
                    f"{generation.path}/{FOLDER}/{width}.npy has shape {table.shape}, expected "
                    "(entries, 4): build the generation again"
                )
            windows._load(width, table)
        return windows

    def _load(self, width: int, table: Array) -> None:
        places = self._places[table[:, 2]]
        table, places = table[places >= 0], places[places >= 0]
        cells = (table[:, 1].astype(np.int64) * len(self._actions) + places).astype(np.uint32)
        edges = np.flatnonzero(np.diff(table[:, 0])) + 1
        for part in np.split(np.arange(len(table)), edges) if len(table) else ():
            order = part[np.argsort(cells[part], kind="stable")]
            bucket = _Bucket(cells[order], table[order, 3].astype(np.int32))
            self._buckets[width][int(table[part[0], 0])] = bucket
        for total, window in zip(self._totals, self.windows, strict=True):
            if window.width_ms == width:
                self._fill(total, window, self._newest // width)

    def apply(self, rows: Array, actions: Array, times: Array) -> None:
        """Counts events: rows (k,), action codes (k,), epoch ms (k,), in any order.

        Unknown rows (negative) and actions that are not counted add nothing; rows that are new
        make room for themselves. Events older than what any window reaches are left out.
        """
        rows, times = np.asarray(rows, np.int64), np.asarray(times, np.int64)
        places = self._places[np.asarray(actions, np.int64)]
        keep = (rows >= 0) & (places >= 0)
        if not self.windows or not keep.any():
            return
        rows, places, times = rows[keep], places[keep], times[keep]
        self.advance(int(times.max()))
        self._grow(int(rows.max()) + 1)
        cells = (rows * len(self._actions) + places).astype(np.uint32)
        for width, buckets in self._buckets.items():
            numbers = times // width
            for number in np.unique(numbers).tolist():
                if number > self._oldest(width):
                    one = cells[numbers == number]
                    buckets.setdefault(number, _Bucket()).add(one)
                    self._count(width, number, one)

    def _count(self, width: int, number: int, cells: Cells) -> None:
        tick = self._newest // width
        for total, window in zip(self._totals, self.windows, strict=True):
            if window.width_ms == width and tick - window.buckets < number <= tick:
                np.add.at(total.reshape(-1), cells, 1)

    def advance(self, at: int) -> None:
        """Moves the totals on to `at`, if that is later than where they are; what no window
        reaches any more is dropped."""
        if at <= self._newest:
            return
        before, self._newest = self._newest, at
        for total, window in zip(self._totals, self.windows, strict=True):
            old, new = before // window.width_ms, at // window.width_ms
            if new - old >= window.buckets:
                self._fill(total, window, new)
                continue
            flat, buckets = total.reshape(-1), self._buckets[window.width_ms]
            for number in range(old + 1, new + 1):
                for place, sign in ((number, 1), (number - window.buckets, -1)):
                    if place in buckets:
                        cells, counts = buckets[place].counted()
                        flat[cells] += sign * counts
        for width, buckets in self._buckets.items():
            for number in [n for n in buckets if n <= self._oldest(width)]:
                del buckets[number]

    def _oldest(self, width: int) -> int:
        """The newest bucket that is no longer needed."""
        longest = max(w.buckets for w in self.windows if w.width_ms == width)
        return (self._newest - BACK_MS) // width - longest

    def _fill(self, total: NDArray[np.int32], window: Window, tick: int) -> None:
        total[:] = 0
        for number, bucket in self._buckets[window.width_ms].items():
            if tick - window.buckets < number <= tick:
                cells, counts = bucket.counted()
                np.add.at(total.reshape(-1), cells, counts)

    def _grow(self, rows: int) -> None:
        if self._totals and rows > len(self._totals[0]):
            room = max(rows, len(self._totals[0]) * 9 // 8)
            for place, total in enumerate(self._totals):
                self._totals[place] = np.zeros((room, total.shape[1]), np.int32)
                self._totals[place][: len(total)] = total

    def read(self, rows: Rows, at: int) -> Floats:
        """(k, C) float32 counts `names` as of `at`: exact for every later moment, and for those up
        to ten minutes before the newest event. Zero for rows that nothing was counted for."""
        found = np.zeros((len(rows), len(self._actions), len(self.windows)), np.float32)
        for place, (total, window) in enumerate(zip(self._totals, self.windows, strict=True)):
            known = rows < len(total)
            counts = total[np.where(known, rows, 0)] if len(total) else 0
            found[:, :, place] = counts * known[:, None]
            for number, sign in self._moved(window, at):
                found[:, :, place] += sign * self._in(window.width_ms, number, rows)
        return found.reshape(len(rows), -1)

    def _moved(self, window: Window, at: int) -> Iterator[tuple[int, int]]:
        """The buckets that are in the window as of `at` and not in its totals (1), or the other
        way round (-1)."""
        here, there = self._newest // window.width_ms, at // window.width_ms
        for number in self._buckets[window.width_ms]:
            now = there - window.buckets < number <= there
            before = here - window.buckets < number <= here
            if now != before:
                yield number, 1 if now else -1

    def _in(self, width: int, number: int, rows: Rows) -> NDArray[np.int32]:
        """(k, A) what one bucket has of the rows."""
        cells, counts = self._buckets[width][number].counted()
        found = np.zeros((len(rows), len(self._actions)), np.int32)
        if not len(cells):
            return found
        first = (rows.astype(np.int64) * len(self._actions)).astype(np.uint32)
        places = np.searchsorted(cells, first)
        for action in range(len(self._actions)):
            last = np.minimum(places, len(cells) - 1)
            hit = cells[last] == first + np.uint32(action)
            found[hit, action] = counts[last[hit]]
            places = places + hit
        return found

    def recent(self, rows: Array, actions: Array, times: Array, at: int, items: int) -> Floats:
        """(items, C) float32: what events beside those that were applied add as of `at`; their
        rows are from 0 to `items`."""
        places, times = self._places[np.asarray(actions, np.int64)], np.asarray(times, np.int64)
        found = np.empty((items, len(self._actions), len(self.windows)), np.float32)
        cells, size = np.asarray(rows, np.int64) * len(self._actions) + places, found[:, :, :1].size
        for w, window in enumerate(self.windows):
            tick, numbers = at // window.width_ms, times // window.width_ms
            keep = (places >= 0) & (tick - window.buckets < numbers) & (numbers <= tick)
            found[:, :, w] = np.bincount(cells[keep], minlength=size).reshape(items, -1)
        return found.reshape(items, -1)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        buckets = (b for of in self._buckets.values() for b in of.values())
        return sum(t.nbytes for t in self._totals) + sum(bucket.nbytes for bucket in buckets)


class _Bucket:
    """Counts of cells, summed up where there are many events that are not yet."""

    __slots__ = ("_cells", "_counts", "_fresh", "_waiting")

    def __init__(self, cells: Array | None = None, counts: Array | None = None) -> None:
        self._cells = np.empty(0, np.uint32) if cells is None else cells
        self._counts = np.empty(0, np.int32) if counts is None else counts
        self._fresh: list[Cells] = []
        self._waiting = 0

    def add(self, cells: Cells) -> None:
        self._fresh.append(cells)
        self._waiting += len(cells)
        if self._waiting > 4096 + len(self._cells) // 2:
            self.counted()

    def counted(self) -> Counted:
        if self._fresh:
            cells = np.concatenate([self._cells, *self._fresh])
            counts = np.ones(len(cells), np.int32)
            counts[: len(self._counts)] = self._counts
            self._cells, place = np.unique(cells, return_inverse=True)
            summed = np.bincount(place, counts, len(self._cells))
            self._counts, self._fresh, self._waiting = summed.astype(np.int32), [], 0
        return self._cells, self._counts

    @property
    def nbytes(self) -> int:
        return self._cells.nbytes + self._counts.nbytes + 4 * self._waiting
