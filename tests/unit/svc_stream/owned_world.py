"""A world whose events are keyed by the entity, and a plan with an owned set over it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from headrace.contracts.partition import partition_for
from headrace.contracts.records import ScoringInput
from headrace.plan.ir import Input, Label, Model, Plan, Rollout, Watch
from headrace.plan.oracle import Oracle, RawRecord
from headrace.plan.topics import scoring_inputs_topic
from support.law_worlds import EVENTS, HOUR, ORIGIN_LOAD, hexed
from unit.svc_stream.rig import Rig, by_append, world

PARTITIONS = 3
OWNED = replace(ORIGIN_LOAD, name="origin_pace", hash="5" * 64, placement="owned", partitions=PARTITIONS)
MODEL = Model(
    name="delay", request="departures", sample_bp=10_000, routing_key="flight_id", request_id="flight_id", when=None,
    label=Label("departures", "delay > 15", "flight_id", 24 * HOUR),
    inputs=tuple(Input(f.name, "feature", OWNED.name, f.name) for f in OWNED.features),
    trainer="gradient_boosting", trainer_parameters=(), threshold="0.5", gate=(), deadline_ms=1000,
    rules="departures_1h > 3", rules_score="delay_mean_1h", default_decision=False, explain_top=0,
    rollout=Rollout((100,), 10), watch=Watch(("departures_1h",), 7 * 24 * HOUR, 200, 500), owner="ops",
)  # fmt: skip
OWNED_PLAN = Plan(
    "flights", "ops", tuple(replace(e, key="origin", partitions=PARTITIONS) for e in EVENTS.values()), (), (OWNED,), (MODEL,),
    hash="6" * 64,
)  # fmt: skip


def keyed(seed: int, records: int) -> list[RawRecord]:
    """A generated log, each record in the partition of its entity; no entity is null."""
    rng, found = random.Random(seed), []
    for raw in by_append(world(seed, records)):
        if raw.fields is None:
            found.append(replace(raw, partition=rng.randrange(PARTITIONS)))
            continue
        origin = raw.fields["origin"] or ""
        fields = {**raw.fields, "origin": origin}
        found.append(replace(raw, fields=fields, partition=partition_for(origin, PARTITIONS)))
    return found


def answers(rig: Rig) -> list[ScoringInput]:
    """All that was answered, in no order that means anything."""
    return [rig.codec.decode(r.value, ScoringInput) for r in rig.broker.records(scoring_inputs_topic(rig.plan.pipeline))]


def cut_of(answer: ScoringInput) -> dict[tuple[str, int], int]:
    return {(c.event, c.partition): c.next_offset for c in answer.cut}


def check_answers(rig: Rig, found: Sequence[ScoringInput], event: str = "departures") -> None:
    """Each answer is what the naive oracle says at its cut, which ends at the request; no decodable request lacks one."""
    oracle, topic = Oracle(rig.plan.events, rig.log), next(e.topic for e in rig.plan.events if e.name == event)
    asked = {(r.partition, r.offset): r for r in rig.log if r.event == event and r.fields is not None}
    assert {(a.partition, a.offset) for a in found} == set(asked)
    for answer in found:
        raw = asked[answer.partition, answer.offset]
        assert raw.fields is not None and (answer.topic, answer.entity) == (topic, raw.fields["origin"])
        assert answer.t_ms == raw.fields["departed_at"] and answer.append_time_ms == raw.append_ms
        cut = cut_of(answer)
        assert cut[event, answer.partition] == answer.offset, "the row itself is not in its cut"
        assert {p for _, p in cut} == {answer.partition}
        values, statuses = oracle.answer(OWNED, answer.entity, answer.t_ms, cut, None)
        assert (hexed(answer.values), list(answer.statuses)) == (hexed(values), [int(s) for s in statuses]), (answer, cut)
