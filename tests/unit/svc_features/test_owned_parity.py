"""Placement `owned` from end to end in memory: answered at the row, decided, archived, and recomputed from the log alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicSpec
from headrace.chassis.metrics import ChassisMetrics
from headrace.chassis.records import Rejected
from headrace.chassis.tracing import Tracing
from headrace.chassis.transactional import TransactionalLoop
from headrace.contracts.records import DecisionSource, PassportCut, PredictionMade
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import DeltaLake, LakeReader
from svc_features.archive import Archive, Reached
from svc_features.handlers import event_feed, passport_feed
from svc_features.recompute import Choice, Recomputation
from svc_features.telemetry import FeaturesMetrics
from svc_features.warehouse import connect
from svc_serve.deciding import Decider
from svc_serve.domain.answered import Answered
from svc_serve.owned_reads import OwnedReads
from svc_serve.requests import RequestReader
from svc_serve.scoring_door import ScoringDoor
from svc_serve.telemetry import ServeMetrics
from unit.svc_stream.owned_world import MODEL, OWNED, OWNED_PLAN, answers, keyed
from unit.svc_stream.rig import Rig

PREDICTIONS = predictions_topic(OWNED_PLAN.pipeline)


def never(rejected: Rejected) -> bytes:
    raise AssertionError(rejected.reason)


def decided(rig: Rig) -> list[PredictionMade]:
    """All answers through the scoring door of svc-serve."""
    rig.broker.create(TopicSpec(PREDICTIONS, 2))
    decider = Decider(OWNED_PLAN, MODEL, [], rig.clock, OwnedReads(OWNED))
    reader = RequestReader(OWNED_PLAN, MODEL, rig.codec, rig.clock)
    door = ScoringDoor(
        decider, reader, rig.codec, Answered(1_000, wait_s=0.0), Tracing("svc-serve", "0", None),
        ServeMetrics(CollectorRegistry()), rig.clock, batch_max=7,
    )  # fmt: skip
    loop = TransactionalLoop(
        group=door.group, topics=[door.topic], consumer=rig.bus.consumer(door.group, "c", instance_id="c"),
        make_producer=lambda: rig.bus.producer("p", transactional_id="p"), handle=door.handle, encode_rejected=never,
        clock=rig.clock, metrics=ChassisMetrics(CollectorRegistry()), on_committed=door.committed, records_max=20,
        poll_timeout_s=0,
    )  # fmt: skip
    for _ in range(40):
        loop.step()
    loop.close()
    return [rig.codec.decode(r.value, PredictionMade) for r in rig.broker.records(PREDICTIONS)]


def recomputed(rig: Rig, lake: Path) -> Recomputation:
    feeds = [event_feed(OWNED_PLAN, e, rig.codec) for e in OWNED_PLAN.events] + [passport_feed(OWNED_PLAN, rig.codec)]
    archive = Archive(
        OWNED_PLAN.pipeline, feeds, bus=rig.bus, lake=DeltaLake(lake), clock=rig.clock,
        metrics=FeaturesMetrics(CollectorRegistry()), interval_ms=1, rows_max=10_000, reached=Reached(), idle_s=0.0,
    )  # fmt: skip
    while archive.step():
        rig.clock.advance(10)
    archive.close()
    run = Recomputation(connect(1, 500, lake / "spill"), LakeReader(lake), OWNED_PLAN, Choice())
    run.findings.mismatches_max = 1_000
    run.run()
    return run


@pytest.mark.parametrize("seed", range(3))
def test_a_passport_of_an_owned_set_recomputes_with_the_same_bits(seed: int, tmp_path: Path) -> None:
    """One decision per request id, by whichever answer came first, and every value again from the archived log."""
    rig = Rig(plan=OWNED_PLAN)
    rig.send(keyed(seed, 60))
    rig.drain(rig.worker(OWNED), rng=random.Random(seed))
    found = answers(rig)
    passports = decided(rig)
    assert len(passports) == len({p.request_id for p in passports}) > 10
    asked = {f"{a.topic}-{a.partition}-{a.offset}" for a in found}
    for passport in passports:
        (read,) = passport.sets
        assert read.placement == "owned" and passport.event_id in asked
        offset = int((passport.event_id or "").rsplit("-", 1)[1])
        topic_id = rig.bus.admin().topic_id((passport.event_id or "").rsplit("-", 2)[0])
        assert PassportCut(event="departures", partition=read.partition, next_offset=offset, topic_id=topic_id) in read.cut
        assert all(c.topic_id for c in read.cut)
    run = recomputed(rig, tmp_path)
    assert (run.findings.checked, run.findings.oracle_checked) == (len(passports), len(passports))
    assert run.findings.mismatches == []


def test_a_cut_that_holds_the_row_itself_is_found_out(tmp_path: Path) -> None:
    """The mutant: the same values, but a cut one further."""
    rig = Rig(plan=OWNED_PLAN)
    rig.send(keyed(1, 60))
    rig.drain(rig.worker(OWNED), rng=random.Random(1))
    passports = decided(rig)
    producer = rig.bus.producer("mutant")
    for passport in passports:
        (read,) = passport.sets
        cut = tuple(replace(c, next_offset=c.next_offset + 1) if c.event == "departures" else c for c in read.cut)
        altered = replace(passport, request_id=passport.request_id + "x", sets=(replace(read, cut=cut),))
        producer.produce(PREDICTIONS, rig.codec.encode(PREDICTIONS, altered), b"k", 0)
    run = recomputed(rig, tmp_path)
    assert {m.request_id.endswith("x") for m in run.findings.mismatches} == {True}


@pytest.mark.parametrize("source", list(DecisionSource))
def test_a_decision_whose_owner_was_late_has_no_read_of_its_set_and_no_model_may_have_made_it(
    source: DecisionSource, tmp_path: Path
) -> None:
    """Calls over REST do not wait longer than their deadline; such a row holds nothing of the owned set, and is told apart."""
    rig = Rig(plan=OWNED_PLAN)
    rig.send(keyed(2, 40))
    rig.drain(rig.worker(OWNED), rng=random.Random(2))
    first = decided(rig)[0]
    row = Decider(OWNED_PLAN, MODEL, [], rig.clock)._assembler.row(
        orjson.loads(first.request_body), {OWNED.name: [None] * len(OWNED.features)}
    )
    late = replace(first, request_id="late", sets=(), vector=tuple(row.tolist()), decision_source=source)
    rig.bus.producer("late").produce(PREDICTIONS, rig.codec.encode(PREDICTIONS, late), b"k", 0)
    found = recomputed(rig, tmp_path).findings.mismatches
    by_model = source in (DecisionSource.MODEL, DecisionSource.PREVIOUS)
    assert [(m.kind, m.request_id) for m in found] == ([("shape", "late")] if by_model else [])
