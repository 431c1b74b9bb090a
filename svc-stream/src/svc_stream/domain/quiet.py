"""Event time in source partitions nobody writes to: which of them hold the others back, and how far they may go on.

A watermark is a promise about records to come; a partition without records makes none. One that has been quiet for long
enough, and has been read to its end, goes on with the slowest partition of its topic that is not. Verdicts never hear of
it: they follow the partition's own log. What is decided here is logged, so that others can come to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field

Place = tuple[str, int]  # event, partition


def of_event(place: Place) -> Hashable:
    """Partitions of one topic go together."""
    return place[0]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a source partition is read, and its watermark, ms UTC; None: no record and no advance yet."""

    next_offset: int
    watermark_ms: int | None


@dataclass(frozen=True, slots=True)
class Advance:
    """A quiet partition goes on to a watermark above its own."""

    place: Place
    watermark_ms: int
    quiet_s: float


@dataclass(slots=True)
class Quiet:
    """Remembers since when each partition has stood where it stands.

    together: partitions of one kind hold each other back.
    """

    after_s: float
    together: Callable[[Place], Hashable] = of_event
    _since: dict[Place, tuple[int, float]] = field(default_factory=dict)
    _quiet: dict[Place, float] = field(default_factory=dict)

    def advances(self, standings: Mapping[Place, Standing], own: frozenset[Place], now_s: float) -> Iterator[Advance]:
        """What may go on now.

        Args:
            standings: every partition this worker knows of. own: those it reads itself; only these can it decide about.
            now_s: of a clock that never goes back.
        """
        quiet = self._quiet = {place: self._quiet_s(place, at.next_offset, now_s) for place, at in standings.items()}
        for place in sorted(own & standings.keys()):
            slowest = self._slowest(self.together(place), standings, quiet)
            mine = standings[place].watermark_ms
            if quiet[place] >= self.after_s and slowest is not None and (mine is None or mine < slowest):
                yield Advance(place, slowest, quiet[place])

    def _quiet_s(self, place: Place, next_offset: int, now_s: float) -> float:
        known = self._since.get(place)
        if known is None or known[0] != next_offset:
            self._since[place] = (next_offset, now_s)
            return 0.0
        return now_s - known[1]

    def quiet_s(self, place: Place) -> float:
        """For how long a partition had been quiet at the last look."""
        return self._quiet.get(place, 0.0)

    def _slowest(self, kind: Hashable, standings: Mapping[Place, Standing], quiet: Mapping[Place, float]) -> int | None:
        """Of the partitions of a kind that are not quiet; None if all are, or one has said nothing yet."""
        mine = {place: at for place, at in standings.items() if self.together(place) == kind}
        active = [at.watermark_ms for place, at in mine.items() if quiet[place] < self.after_s]
        known = [w for w in active if w is not None]
        return min(known) if known and len(known) == len(active) else None
