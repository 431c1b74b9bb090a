"""Owned sets: each request event is answered at its own row; answers are read from their topic as svc-serve reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headrace.chassis.bus import Bus, Record, TopicPartition
from headrace.contracts.codec import Codec
from headrace.contracts.records import ScoringInput
from headrace.plan.ir import EventType, FeatureSet, Input, Label, Model, Rollout, Watch
from headrace.plan.topics import scoring_inputs_topic
from parity.serving import Answers
from parity.worlds import World

REQUEST = "departures"
PARTITIONS = 3
EARLIEST = -2
CONSUME_MAX = 2_000
WAIT_S = 0.005


def keyed_by_entity(
    events: Sequence[EventType], sets: Sequence[FeatureSet]
) -> tuple[tuple[EventType, ...], tuple[FeatureSet, ...]]:
    """The same, as an owner needs them: all of an entity in one partition of each topic."""
    (entity,) = {s.entity for s in sets}
    return (
        tuple(replace(e, key=entity[0], partitions=PARTITIONS) for e in events),
        tuple(replace(s, placement="owned", partitions=PARTITIONS) for s in sets),
    )


def asking(feature_set: FeatureSet, request: str) -> Model:
    """A model that asks for all of a set at each request event."""
    first = feature_set.features[0].name
    return Model(
        name=f"asks_{feature_set.name}", request=request, sample_bp=10_000, routing_key="flight_id", request_id="flight_id",
        when=None, label=Label(request, "delay > 15", "flight_id", 86_400_000),
        inputs=tuple(Input(f.name, "feature", feature_set.name, f.name) for f in feature_set.features),
        trainer="gradient_boosting", trainer_parameters=(), threshold="0.5", gate=(), deadline_ms=1_000, rules=f"{first} > 3",
        rules_score=first, default_decision=False, explain_top=0, rollout=Rollout((100,), 10),
        watch=Watch((first,), 86_400_000, 200, 500), owner="ops",
    )  # fmt: skip


class RowAsker:
    """Collects what the owners of one set answered; as a SetAsker to the driver."""

    reopened = 0

    def __init__(self, world: World, feature_set: FeatureSet, bus: Bus, codec: Codec) -> None:
        self.feature_set, self.answers = feature_set, Answers()
        self._codec, self._wanted = codec, world.asked_by_rows(feature_set)
        self._topics = {e.topic: e.name for e in world.plan.events}
        self._rows: Counter[tuple[int, int]] = Counter()  # (partition, offset) of the request
        topic = scoring_inputs_topic(world.plan.pipeline)
        partitions = bus.admin().partitions(topic) or 0
        self._consumer = bus.consumer(None, f"parity.{topic}.{feature_set.name}")
        self._consumer.assign({TopicPartition(topic, p): EARLIEST for p in range(partitions)})

    @property
    def left(self) -> int:
        return self._wanted - len(self._rows)

    @property
    def twice(self) -> int:
        """Answers to rows that had one: after a death, perhaps with another cut."""
        return self._rows.total() - len(self._rows)

    def reopen(self) -> None:
        """Nothing to lose: the topic is read once."""

    def step(self) -> int:
        """Take what came; returns how many answers."""
        found = [self._codec.decode(r.value, ScoringInput) for r in self._records()]
        found = [a for a in found if a.set_hash == self.feature_set.hash]
        for answer in found:
            assert self._topics[answer.topic] == REQUEST and answer.base_floor_ms is None
            self._rows[answer.partition, answer.offset] += 1
            cut = tuple((c.event, c.partition, c.next_offset) for c in answer.cut)
            self.answers.cut_ids.append(self.answers.cuts.setdefault(cut, len(self.answers.cuts)))
            self.answers.entities.append(answer.entity)
            self.answers.times_ms.append(answer.t_ms)
        if found:
            self.answers.values.append(np.array([[np.nan if v is None else v for v in a.values] for a in found], np.float64))
            self.answers.statuses.append(np.array([a.statuses for a in found], np.int8))
        return len(found)

    def _records(self) -> list[Record]:
        return self._consumer.consume(CONSUME_MAX, WAIT_S)

    def ask_due(self, everything: bool = False) -> int:
        """Whatever is asked is asked by the log."""
        return self.step()

    def holds(self, ends: Mapping[tuple[str, int], int], asked: int) -> bool:
        """Whether every request sent so far is answered."""
        return len(self._rows) >= asked

    def cut(self) -> dict[tuple[str, int], int]:
        """Next offset behind the last request answered, by partition."""
        found: dict[tuple[str, int], int] = {}
        for partition, offset in self._rows:
            found[REQUEST, partition] = max(offset + 1, found.get((REQUEST, partition), 0))
        return found

    def close(self) -> None:
        self._consumer.close()
