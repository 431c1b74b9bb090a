"""What a world is to the driver: a plan, segments of records to send, and questions to ask while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace.contracts.codec import Codec
from headrace.contracts.topics import TopicSpec
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.topics import plan_topics

Int64s = npt.NDArray[np.int64]
UNDECODABLE = b"\x00\xff\xff\xff\xffnot a value"
SOON_MS = 20 * 60_000


class Mode(Enum):
    """How the feature state of a world comes about."""

    ONE = "one worker"
    TWO = "two workers"  # of one group: the second joins under way, and leaves for good
    IMPORTED = "imported"  # from bases computed from the archive at a cut; what came before is gone from the log then
    OWNED = "owned"  # each request event is answered at its own row


class How(Enum):
    """How records reach the log."""

    PLAIN = "plain"
    COMMITTED = "committed"  # in a transaction
    ABORTED = "aborted"  # nobody may ever see them
    INTERLEAVED = "interleaved"  # plain records behind an open transaction, which is aborted afterwards


@dataclass(frozen=True, slots=True)
class Sent:
    """One record to send. fields None: `raw` is sent as it is (None: a tombstone). partition None: by the key."""

    event: str
    key: str
    fields: Mapping[str, Any] | None
    partition: int | None = None
    append_ms: int | None = None  # the Kafka timestamp, where the topic takes the producer's
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    how: How
    records: Sequence[Sent]


@dataclass(frozen=True, slots=True)
class Questions:
    """Asked about one set in order of `due_ms`, once its state has come so far in event time.

    fields: of the request, they hold the entity. shift_ms: t is the newest event time of the view plus this, or
    `due_ms` plus this where `anchored`.
    """

    due_ms: Int64s
    fields: Sequence[Mapping[str, object]]
    shift_ms: Int64s
    anchored: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class World:
    """steps: what is sent together before the driver waits for the views. deaths: of the stream workers."""

    name: str
    plan: Plan
    steps: Callable[[], Iterator[Sequence[Segment]]]
    steps_count: int
    questions: Mapping[str, Questions]  # by set name
    deaths: int
    rows_max: tuple[int, ...]
    producers_time: bool  # topics take the producer's timestamp
    accepted: Mapping[str, int] = field(default_factory=dict)  # by event: distinct ids of which none may get lost
    mode: Mode = Mode.ONE
    requests: int = 0  # of each owned set: decodable request events, each of which is answered

    def topics(self) -> list[TopicSpec]:
        """All topics of the plan."""
        specs = plan_topics(self.plan)
        if not self.producers_time:
            return specs
        events = {e.topic for e in self.plan.events}
        stamped = (("message.timestamp.type", "CreateTime"),)
        return [TopicSpec(s.name, s.partitions, retention_ms=-1, config=stamped) if s.name in events else s for s in specs]

    def reads(self) -> int:
        """Feature values that will be asked at least: a row may be answered twice."""
        return sum(
            (len(self.questions[s.name].due_ms) + self.asked_by_rows(s)) * len(s.features) for s in self.plan.feature_sets
        )

    def asked_by_rows(self, feature_set: FeatureSet) -> int:
        """Requests that are events of the log itself."""
        return self.requests if feature_set.placement == "owned" else 0


def encoded(codec: Codec, schemas: Mapping[str, Any], event: EventType, sent: Sent) -> bytes | None:
    """The value of a record."""
    return sent.raw if sent.fields is None else codec.encode_event(schemas[event.name], sent.fields)


def shifts(rng: np.random.Generator, n: int, stale_after_ms: int, ttl_ms: int) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """When questions are about, shapes (n,): mostly now, some at their own moment, some far behind, ahead or expired.

    Returns: shift_ms and anchored, see Questions.
    """
    kind = rng.random(n)
    soon = min(stale_after_ms, SOON_MS)  # short windows are empty when t runs further ahead of the newest event
    fresh = np.where(rng.random(n) < 0.8, rng.integers(0, soon, n), rng.integers(0, stale_after_ms, n))
    edge = stale_after_ms + rng.integers(0, 2, n)  # the last fresh millisecond and the first stale one
    behind = -rng.integers(0, ttl_ms, n)
    gone = -ttl_ms - rng.integers(0, ttl_ms, n)
    later = stale_after_ms + rng.integers(0, ttl_ms, n)
    bounds = [0.72, 0.75, 0.85, 0.91, 0.95, 0.975]
    shift = np.select(
        [kind < b for b in bounds],
        [fresh, edge, np.zeros(n, np.int64), behind, np.zeros(n, np.int64), gone],
        default=later,
    )
    anchored = ((kind >= bounds[1]) & (kind < bounds[2])) | ((kind >= bounds[3]) & (kind < bounds[4]))
    return shift.astype(np.int64), anchored
