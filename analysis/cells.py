"""Counts by interval of time and place of a histogram, sparse: an interval uses some hundred places of the 33,792."""

from typing import Final

import numpy as np

from analysis.histogram import CEILING_NS, PLACES, places
from analysis.rows import Integers

MOST_CELLS: Final = 1 << 20
"""Cells that gather before they are added up."""


class Cells:
    """Counts of values (ns) by (interval, place); intervals are numbered from 0 by the caller."""

    def __init__(self) -> None:
        self._keys: list[Integers] = []
        self._counts: list[Integers] = []
        self._gathered = 0
        self.most_ns: dict[int, int] = {}
        """The greatest value of each interval that has one; exact."""

    def add(self, intervals: Integers, values_ns: Integers) -> None:
        """Counts a vector of values, each in its interval."""
        if not len(values_ns):
            return
        found, counts = np.unique(
            intervals * PLACES + places(np.clip(values_ns, 0, CEILING_NS - 1)), return_counts=True
        )
        self._keys.append(found)
        self._counts.append(counts)
        self._gathered += len(found)
        if self._gathered > MOST_CELLS:
            self._gathered = (
                len(self.settled()[0]) // 2
            )  # what is left may be that many: look again when it has doubled
        in_order = np.argsort(intervals, kind="stable")
        seen, first = np.unique(intervals[in_order], return_index=True)
        tops = np.maximum.reduceat(values_ns[in_order], first)
        for interval, top in zip(seen.tolist(), tops.tolist(), strict=True):
            self.most_ns[interval] = max(self.most_ns.get(interval, top), top)

    def settled(self) -> tuple[Integers, Integers]:
        """All cells as interval x PLACES + place, in order, and their counts."""
        if not self._keys:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        keys, at = np.unique(np.concatenate(self._keys), return_inverse=True)
        counts = np.bincount(at, np.concatenate(self._counts)).astype(np.int64)
        self._keys, self._counts = [keys], [counts]
        return keys, counts
