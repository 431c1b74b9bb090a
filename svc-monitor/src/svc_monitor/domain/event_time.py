"""How far event time has come on the partitions of one topic."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class EventTime:
    """The slowest partition that may still bring something tells the time, less what its records may be late by."""

    lateness_ms: int = 0
    _reached: dict[int, int] = field(default_factory=dict)  # partition -> largest event time, ms UTC

    def seen(self, partition: int, t_ms: int) -> None:
        self._reached[partition] = max(t_ms, self._reached.get(partition, t_ms))

    @property
    def newest_ms(self) -> int | None:
        """Largest event time seen on any partition, ms UTC; None before the first record."""
        return max(self._reached.values(), default=None)

    def behind(self) -> list[int]:
        """Partitions that hold the time back: worth asking whether they are read to their end."""
        newest = max(self._reached.values(), default=0)
        return [partition for partition, t_ms in sorted(self._reached.items()) if t_ms < newest]

    def watermark(self, idle: Collection[int] = ()) -> int | None:
        """Event time reached, ms UTC; None before the first record. idle: partitions read to their end."""
        if not self._reached:
            return None
        active = [t_ms for partition, t_ms in self._reached.items() if partition not in idle]
        return (min(active) if active else max(self._reached.values())) - self.lateness_ms
