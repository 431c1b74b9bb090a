"""The real view over the real broker: follows the state topics and answers questions at whatever cut it stands."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.state import RocksStore
from headrace.chassis.view import StateView, ViewFollower
from headrace.contracts.codec import Codec
from headrace.contracts.records import Door, Progress, SetRead
from headrace.plan.ir import FeatureSet
from headrace.plan.topics import state_topic
from parity.worlds import Questions, World
from svc_serve.domain.request import Request
from svc_serve.features import SetReader

FOLLOW_WAIT_S = 0.02
ASK_ROWS = (1, 1, 3, 40, 400, 2_000)  # one request alone takes a way of its own
Cut = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class Answers:
    """What was served of one set, in the order asked: columns, and the distinct cuts."""

    entities: list[str | None] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    cut_ids: list[int] = field(default_factory=list)
    values: list[npt.NDArray[np.float64]] = field(default_factory=list)
    statuses: list[npt.NDArray[np.int8]] = field(default_factory=list)
    cuts: dict[Cut, int] = field(default_factory=dict)

    def add(self, reads: list[SetRead], times_ms: list[int]) -> None:
        """Reads and the times they were asked about."""
        for read in reads:
            cut = tuple((c.event, c.partition, c.next_offset) for c in read.cut)
            self.cut_ids.append(self.cuts.setdefault(cut, len(self.cuts)))
            self.entities.append(read.entity)
            assert read.base_floor_ms is None, "no state of these worlds was imported"
        self.times_ms += times_ms
        self.values.append(np.array([[np.nan if v is None else v for v in r.values] for r in reads], np.float64))
        self.statuses.append(np.array([r.statuses for r in reads], np.int8))

    def asked(self) -> pl.DataFrame:
        """Columns pid, entity, t, cut; pid is the row."""
        columns = {"entity": self.entities, "t": self.times_ms, "cut": self.cut_ids}
        frame = pl.DataFrame(columns, {"entity": pl.String, "t": pl.Int64, "cut": pl.Int64})
        return frame.with_row_index("pid").cast({"pid": pl.Int64})

    def cut_rows(self) -> pl.DataFrame:
        """Columns cut, event, part, next_offset."""
        rows = [(i, *where) for cut, i in self.cuts.items() for where in cut]
        schema = {"cut": pl.Int64, "event": pl.String, "part": pl.Int64, "next_offset": pl.Int64}
        return pl.DataFrame(rows, schema, orient="row")


class SetAsker:
    """Views of one set, and the questions about it that are still to be asked."""

    def __init__(
        self, world: World, feature_set: FeatureSet, bus: ConfluentBus, codec: Codec, folder: Path, rng: random.Random
    ) -> None:
        self.feature_set, self.answers = feature_set, Answers()
        self._questions: Questions = world.questions[feature_set.name]
        self._topic, self._bus, self._codec, self._rng = state_topic(world.plan, feature_set), bus, codec, rng
        self._folder, self._asked, self._stores, self.reopened = folder, 0, 0, 0
        self._open(keep=False)

    def _open(self, keep: bool) -> None:
        """Views and their reader; `keep` goes on with the local stores, else they are restored from the topic."""
        if not keep:
            self._stores += 1
        partitions = [TopicPartition(self._topic, p) for p in range(self.feature_set.partitions)]
        stores = [RocksStore(self._folder / f"{tp.topic}-{tp.partition}-{self._stores}") for tp in partitions]
        self._views = [StateView(tp, store, self._progress) for tp, store in zip(partitions, stores, strict=True)]
        self._follower = ViewFollower(self._views, self._bus.consumer(None, f"parity.{self._topic}"))
        self._reader = SetReader(self.feature_set, self._views, self._codec)

    def _progress(self, raw: bytes) -> Progress:
        return self._codec.decode(raw, Progress)

    @property
    def left(self) -> int:
        return len(self._questions.due_ms) - self._asked

    def reopen(self) -> None:
        """A replica that ends and comes again, with its disk or without."""
        self.close()
        self._open(keep=self._rng.random() < 0.5)
        self.reopened += 1

    def step(self) -> int:
        """Follow once, ask what has come due; returns how many questions were asked."""
        applied = self._follower.step(FOLLOW_WAIT_S / 4)
        return self.ask_due() if applied and self._follower.live else 0

    def cut(self) -> dict[tuple[str, int], int]:
        """Next offsets every view of the set has reached."""
        found: dict[tuple[str, int], int] = {}
        for i, view in enumerate(self._views):
            mine = {(c.event, c.partition): c.next_offset for c in view.progress.cut} if view.progress else {}
            found = mine if not i else {k: min(n, mine[k]) for k, n in found.items() if k in mine}
        return found

    def holds(self, ends: Mapping[tuple[str, int], int], asked: int) -> bool:
        """Whether every view holds what was sent up to there."""
        cut = self.cut()
        return all(cut.get(k, 0) >= end for k, end in ends.items() if k[0] in self.feature_set.events)

    def bases(self) -> set[str]:
        """What the states of the set started from."""
        return {view.progress.base_digest for view in self._views if view.progress}

    def now_ms(self) -> int | None:
        """The event time every view and every event of the set has reached; None before that."""
        now: int | None = None
        for view in self._views:
            tops: dict[str, int] = {}
            for c in view.progress.cut if view.progress else ():
                if c.maximum_ms is not None:
                    tops[c.event] = max(c.maximum_ms, tops.get(c.event, c.maximum_ms))
            if len(tops) < len(self.feature_set.events):
                return None
            now = min(tops.values()) if now is None else min(now, *tops.values())
        return now

    def ask_due(self, everything: bool = False) -> int:
        """Ask in batches of drawn sizes; `everything`: also what is not due yet."""
        now, began = self.now_ms(), self._asked
        if now is None:
            return 0
        due = len(self._questions.due_ms) if everything else int(np.searchsorted(self._questions.due_ms, now, "right"))
        while self._asked < due:
            if not everything and self._rng.random() < 0.02:
                break  # let the view move on between
            self._ask(self._asked, min(due, self._asked + self._rng.choice(ASK_ROWS)), now)
        return self._asked - began

    def _ask(self, start: int, end: int, now: int) -> None:
        q = self._questions
        base = np.where(q.anchored[start:end], q.due_ms[start:end], now)
        times = (base + q.shift_ms[start:end]).tolist()
        requests = [_request(t, fields) for t, fields in zip(times, q.fields[start:end], strict=True)]
        self.answers.add(self._reader.read(requests), times)
        self._asked = end

    def close(self) -> None:
        self._follower.close()
        for view in self._views:
            view.store.close()


def _request(t_ms: int, fields: Mapping[str, object]) -> Request:
    return Request("", t_ms, "", fields, Door.EVENT, 0)
