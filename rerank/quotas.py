"""
Quotas: at most so many of one brand (category, seller …) among so many places in a row.

A hard rule. Pins stand where they stand and count; whatever else goes on the page keeps clear of
them. Items without the attribute are bound by nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from funnel.types import Array

Codes = Callable[[Array], Array]  # rows (n,) -> (n,) codes, -1 for none


@dataclass(frozen=True)
class Quota:
    codes: Codes
    most: int
    among: int  # places in a row


class Taken:
    """Which places of one page the values of the attributes have so far, those of pins included."""

    def __init__(self, quotas: Mapping[str, Quota], rows: Array):
        self.rules = [(quota.most, quota.among) for quota in quotas.values()]
        self.codes: list[list[int]] = [quota.codes(rows).tolist() for quota in quotas.values()]
        self._places: list[dict[int, list[int]]] = [{} for _ in self.rules]

    def kind(self, item: int) -> tuple[int, ...]:
        """Items of one kind are bound alike."""
        return tuple(codes[item] for codes in self.codes)

    def put(self, item: int, place: int) -> None:
        for codes, places in zip(self.codes, self._places, strict=True):
            if codes[item] >= 0:
                insort(places.setdefault(codes[item], []), place)

    def remove(self, item: int, place: int) -> None:
        for codes, places in zip(self.codes, self._places, strict=True):
            if codes[item] >= 0:
                places[codes[item]].remove(place)

    def fits(self, item: int, place: int) -> bool:
        """Whether no window with the place in it would have more of a value than it may."""
        for (most, among), codes, places in zip(self.rules, self.codes, self._places, strict=True):
            there = places.get(codes[item])
            if codes[item] < 0 or not there:
                continue
            low, high = bisect_left(there, place - among + 1), bisect_left(there, place + among)
            near = there[low:high]
            if len(near) < most:
                continue
            if any(
                sum(start <= other < start + among for other in near) >= most
                for start in range(place - among + 1, place + 1)
            ):
                return False
        return True

    def bound(self, items: list[int], most: int) -> int:
        """No page of these items and those placed is longer than this, nor than `most`."""
        for (k, among), codes, places in zip(self.rules, self.codes, self._places, strict=True):
            counts: dict[int, int] = {value: len(there) for value, there in places.items()}
            for item in items:
                counts[codes[item]] = counts.get(codes[item], 0) + 1
            free = counts.pop(-1, 0)
            while most:
                cap = k * (most // among) + min(k, most % among)
                # Pins may be more than the quota lets through.
                fixed = (len(places.get(value, ())) for value in counts)
                full = zip(counts.values(), fixed, strict=True)
                if free + sum(min(count, max(cap, pins)) for count, pins in full) >= most:
                    break
                most -= 1
        return most
