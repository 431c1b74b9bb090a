"""Continuous proof: a sample of what is archived is recomputed in rounds, and exactly what differs becomes a finding."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow.compute as pc
import pytest
from prometheus_client import CollectorRegistry

from headrace.chassis.clock import ManualClock
from headrace.contracts.catalogue import FINDINGS
from headrace.contracts.errors import Retryable
from headrace.contracts.records import FindingRaised
from headrace.plan.hashes import sealed
from headrace.plan.ir import Plan
from headrace.plan.lower import Status
from headrace.plan.oracle import Oracle
from headrace.plan.retained import with_retained
from headrace.plan.routing import sampled
from headrace.plan.verdicts import Verdict
from support.lakes import alter
from support.law_worlds import make_world
from svc_features import proving
from svc_features.adapters.lake import LakeReader
from svc_features.archive import Reached, TopicFacts
from svc_features.continuous import Prover
from svc_features.jobs import Ended, run_module
from svc_features.judged import Judged, kept_name, open_kept
from svc_features.recompute import SAMPLE_SALT, Choice, Recomputation
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics
from svc_features.warehouse import connect, load_verdicts
from unit.svc_features.test_parity import expected
from unit.svc_features.worlds import EVENTS, PIPELINE, PLAN, PREDICTIONS_TOPIC, SETS, Rig, played

SEEDS = (4, 6, 9)


class Cut(LakeReader):
    """The lake as it was when each partition had only so many offsets."""

    def __init__(self, folder: Path, ends: Mapping[str, Mapping[int, int]]) -> None:
        super().__init__(folder)
        self._ends = ends

    def since(self, positions: Mapping[int, int]) -> LakeReader:
        outer, inner = self, super().since(positions)

        class Seen(LakeReader):
            @property
            def whole(self) -> bool:
                return False  # its files hold more than is seen

            def batches(self, topic: str, columns: Any = None) -> Any:
                where = pc.scalar(False)
                for part, end in outer._ends.get(topic, {}).items():
                    where = where | ((pc.field("part") == part) & (pc.field("off") < end))
                known = inner._where
                return LakeReader(outer._folder, where if known is None else known & where).batches(topic, columns)

        return Seen(self._folder)


def archived(folder: Path, seed: int) -> tuple[Rig, Path]:
    rig = played(make_world(seed), random.Random(seed))
    rig.archived(folder / "lake")
    return rig, folder / "lake"


def ends_of(lake: Path) -> dict[str, dict[int, int]]:
    reader = LakeReader(lake)
    return {e.topic: reader.positions(e.topic, e.partitions) for e in PLAN.events}


def rows_of(connection: Any, name: str) -> list[Any]:
    return connection.execute(f'select * from "{name}" order by part, off').fetchall()


@pytest.mark.parametrize("seed", range(6))
def test_verdicts_carried_on_equal_those_of_the_whole_log(tmp_path: Path, seed: int) -> None:
    """Goal: judging what is new with the kept end is judging everything. Method: the lake grows by random steps per
    partition; afterwards every row with its verdict and running maximum equals one judgement of the whole."""
    rng = random.Random(seed)
    _, lake = archived(tmp_path, seed)
    whole = ends_of(lake)
    ends = {topic: dict.fromkeys(parts, 0) for topic, parts in whole.items()}
    kept = open_kept(tmp_path / "kept.duckdb", 1, 500)
    steps = 0
    while ends != whole:
        for topic, parts in ends.items():
            for part, end in parts.items():
                parts[part] = min(whole[topic][part], end + rng.choice((0, 1, 2, 5, 40)))
        judged = Judged(kept, Cut(lake, ends), PLAN)
        judged.extend()
        assert judged.extend() == 0
        steps += 1
    assert steps > 3
    once = connect(1, 500, tmp_path / "spill")
    for event in PLAN.events:
        load_verdicts(once, LakeReader(lake), event)
        assert rows_of(kept, f"kept_{event.name}") == rows_of(once, f"verdict_{event.name}")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_let_go_changes_no_later_verdict_and_makes_older_decisions_unverifiable(tmp_path: Path, seed: int) -> None:
    """The rest is still recomputed bit for bit; a decision whose window reaches into what is gone is left out."""
    _, lake = archived(tmp_path, seed)
    whole = ends_of(lake)
    half = {topic: {p: round(n * 0.8) for p, n in parts.items()} for topic, parts in whole.items()}
    short = replace(PLAN, feature_sets=tuple(replace(s, features=s.features[:1]) for s in SETS))
    kept = open_kept(tmp_path / "kept.duckdb", 1, 500)
    first = Judged(kept, Cut(lake, half), short)
    first.extend()
    assert first.let_go(1_000_000) == 0
    assert first.let_go(10) > 0
    judged = Judged(kept, LakeReader(lake), short)
    judged.extend()
    once = connect(1, 500, tmp_path / "spill")
    gone = 0
    for event in PLAN.events:
        load_verdicts(once, LakeReader(lake), event)
        all_, rest = rows_of(once, f"verdict_{event.name}"), rows_of(kept, f"kept_{event.name}")
        assert [row for row in all_ if row in rest] == rest
        gone += len(all_) - len(rest)
    assert gone > 0
    run = Recomputation(kept, LakeReader(lake), PLAN, Choice(oracle=0))
    passports = run.passports()
    verifiable = judged.verifiable(passports)
    assert len(verifiable) < len(passports)
    complete = Judged(kept, LakeReader(lake), PLAN).verifiable(passports)
    run.check(complete)
    assert run.findings.differing == 0


async def in_process(module: str, arguments: list[str], timeout_s: float) -> Ended:
    assert module == proving.__name__
    return await asyncio.to_thread(
        lambda: Ended(0, orjson.dumps(proving.prove(orjson.loads(Path(arguments[0]).read_bytes()))), "")
    )


class Watch:
    """A prover over a lake, and what it publishes."""

    def __init__(self, folder: Path, lake: Path, run: Any = in_process, plan: Plan = PLAN, **settings: Any) -> None:
        self.findings: list[FindingRaised] = []
        self.refuse = False
        defaults = {"proof_sample_bp": 10_000, "lake": lake, "state_dir": folder / "state", "job_memory_mb": 500}
        self.settings = FeaturesSettings(**{**defaults, **settings})
        self.metrics = FeaturesMetrics(CollectorRegistry())
        reached = Reached()
        reached.facts[PREDICTIONS_TOPIC] = TopicFacts(positions=LakeReader(lake).positions(PREDICTIONS_TOPIC, 64))
        self.plan = plan
        self.prover = Prover({PIPELINE: plan}, reached, self.settings, self.metrics, ManualClock(5), self._publish, run)

    async def _publish(self, topic: str, key: str, record: FindingRaised) -> None:
        if self.refuse:
            raise Retryable("the broker is away")
        assert (topic, key) == (FINDINGS, PIPELINE)
        self.findings.append(record)

    async def all(self) -> int:
        rounds = 0
        while await self.prover.round(self.plan):
            rounds += 1
            assert rounds < 100
        return rounds

    @property
    def page(self) -> dict[str, Any]:
        return self.prover.page()[PIPELINE]

    def told(self) -> Counter[tuple[str, str, str, str]]:
        evidence = [orjson.loads(f.evidence) for f in self.findings]
        return Counter((e["kind"], e["request_id"], e["feature_set"], e["feature"]) for e in evidence)


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_unaltered_archive_raises_nothing_and_every_decision_is_checked_once(tmp_path: Path, seed: int) -> None:
    rig, lake = archived(tmp_path, seed)
    watch = Watch(tmp_path, lake, proof_passports_max=8)
    assert await watch.all() > 2
    assert (watch.page["checked"], watch.page["differing"], watch.findings) == (len(rig.passports), {}, [])
    assert watch.metrics.parity_checked.labels(PIPELINE)._value.get() == len(rig.passports)
    again = Watch(tmp_path, lake)
    assert not await again.prover.round(PLAN)  # a new process goes on where the last one was


@pytest.mark.parametrize("seed", SEEDS)
async def test_one_altered_event_raises_exactly_the_findings_the_oracle_predicts(tmp_path: Path, seed: int) -> None:
    """Goal: one finding per disagreement, with request, feature, both values and the cut. Method: one delay is changed in
    the lake; the naive oracle says what must differ."""
    rig, lake = archived(tmp_path, seed)
    verdicts = Oracle(list(EVENTS.values()), rig.log).verdicts()
    accepted = [r for r in rig.log if r.event == "departures" and verdicts[r.event, r.partition, r.offset] is Verdict.OK]
    for raw in random.Random(seed).sample(accepted, len(accepted)):
        changed = replace(raw, fields={**(raw.fields or {}), "delay": 12_345, "origin": "EWR"})
        predicted = expected(rig, [changed if r is raw else r for r in rig.log])
        if predicted:
            break
    else:
        raise AssertionError("no event of the world was read by a decision")
    alter(lake, EVENTS["departures"].topic, raw.partition, raw.offset, {"delay": 12_345, "origin": "EWR"})
    watch = Watch(tmp_path, lake)
    await watch.all()
    assert watch.told() == predicted
    assert {f.kind for f in watch.findings} == {"parity_mismatch"}
    assert len({f.finding_id for f in watch.findings}) == len(watch.findings)
    value = next(e for e in (orjson.loads(f.evidence) for f in watch.findings) if e["kind"] in ("value", "vector"))
    assert value["served"] != value["recomputed"] and value["plan_hash"] == PLAN.hash
    assert all(e["cut"] for e in (orjson.loads(f.evidence) for f in watch.findings) if e["kind"] in ("value", "status"))
    assert sum(watch.page["differing"].values()) == sum(predicted.values())


async def test_a_round_whose_findings_are_not_taken_is_done_again_with_the_same_ids(tmp_path: Path) -> None:
    rig, lake = archived(tmp_path, 4)
    where = LakeReader(lake).batches(PREDICTIONS_TOPIC, ["part", "off"]).read_all().to_pydict()
    alter(lake, PREDICTIONS_TOPIC, where["part"][0], where["off"][0], {"vector": [0.25] * len(PLAN.models[0].inputs)})
    watch = Watch(tmp_path, lake)
    watch.refuse = True
    with pytest.raises(Retryable):
        await watch.prover.round(PLAN)
    assert watch.page["checked"] == 0
    watch.refuse = False
    await watch.all()
    again = Watch(tmp_path / "again", lake)
    await again.all()
    assert [f.finding_id for f in watch.findings] == [f.finding_id for f in again.findings] != []
    assert watch.page["checked"] == len(rig.passports)


async def test_the_sample_is_that_of_the_hash_and_a_round_takes_no_more_than_its_bound(tmp_path: Path) -> None:
    rig, lake = archived(tmp_path, 6)
    watch = Watch(tmp_path, lake, proof_sample_bp=3_000, proof_passports_max=2)
    rounds = await watch.all()
    chosen = [p for p in rig.passports if sampled(SAMPLE_SALT, p.request_id, 3_000)]
    assert 0 < len(chosen) < len(rig.passports)
    assert watch.page["checked"] == len(chosen)
    assert rounds >= len(chosen) // 2


async def test_a_passport_ahead_of_the_archive_waits_and_those_before_it_do_not(tmp_path: Path) -> None:
    rig, lake = archived(tmp_path, 4)
    last = rig.passports[-1]
    cut = (replace(last.sets[0].cut[0], next_offset=10_000), *last.sets[0].cut[1:])
    rig.decide(replace(last, request_id=last.request_id + "x", sets=(replace(last.sets[0], cut=cut), last.sets[1])))
    rig.archived(lake)
    frame, after = proving.take(LakeReader(lake), PLAN, {}, 10_000, 1_000)
    ends = LakeReader(lake).positions(PREDICTIONS_TOPIC, 64)
    assert len(frame) == len(rig.passports) - 1
    assert sum(ends.values()) - sum(after.values()) == 1


def newer(same_events: bool) -> Plan:
    """Another model over the same log; or one that also judges events by another lateness."""
    events = PLAN.events if same_events else tuple(replace(e, lateness_ms=e.lateness_ms + 1) for e in PLAN.events)
    return sealed(replace(PLAN, events=events, models=tuple(replace(m, threshold="0.25") for m in PLAN.models)))


@pytest.mark.parametrize("same_events", [True, False])
async def test_decisions_of_a_retained_version_are_recomputed_under_it(tmp_path: Path, same_events: bool) -> None:
    """Goal: an older model in use goes on being proved. Method: all decisions name PLAN, which the plan in force retains;
    then one archived event is altered, and the findings are those of the oracle and name the older plan."""
    rig, lake = archived(tmp_path, 6)
    plan = with_retained(newer(same_events), [PLAN])
    watch = Watch(tmp_path, lake, plan=plan)
    await watch.all()
    assert (watch.page["checked"], watch.page["versions"][PLAN.hash]) == (len(rig.passports), len(rig.passports))
    assert (watch.findings, watch.page["unverifiable"]) == ([], 0)
    files = sorted((tmp_path / "state" / "proof" / PIPELINE).glob("*.duckdb"))
    assert len(files) == (1 if same_events else 2)  # verdicts are of events: a changed model judges nothing again
    for raw in rig.log:
        altered = replace(raw, fields={**(raw.fields or {}), "delay": 12_345, "origin": "EWR"})
        if (
            raw.event == "departures"
            and raw.fields
            and (predicted := expected(rig, [altered if r is raw else r for r in rig.log]))
        ):
            break
    else:
        raise AssertionError("no event of the world was read by a decision")
    alter(lake, EVENTS["departures"].topic, raw.partition, raw.offset, {"delay": 12_345, "origin": "EWR"})
    again = Watch(tmp_path / "again", lake, plan=plan)
    await again.all()
    assert again.told() == predicted
    assert {orjson.loads(f.evidence)["plan_hash"] for f in again.findings} == {PLAN.hash}


async def test_a_plan_no_longer_retained_is_not_proved_and_its_verdicts_are_dropped(tmp_path: Path) -> None:
    rig, lake = archived(tmp_path, 6)
    watch = Watch(tmp_path, lake, plan=with_retained(newer(False), [PLAN]), proof_passports_max=8)
    await watch.prover.round(watch.plan)
    before = watch.page["checked"]
    folder = tmp_path / "state" / "proof" / PIPELINE
    assert (before > 0, len(list(folder.glob("*.duckdb")))) == (True, 2)
    watch.plan = newer(False)
    await watch.all()
    assert watch.page["checked"] == before < len(rig.passports)
    assert watch.page["checked"] + watch.page["other_plans"] == len(rig.passports)
    assert len(list(folder.glob("*.duckdb"))) == 1


async def test_lateness_skew_counts_the_values_that_late_events_would_change(tmp_path: Path) -> None:
    """As served against as of t, feature by feature; as a reader of both modes counts them."""
    rig, lake = archived(tmp_path, 9)
    watch = Watch(tmp_path, lake)
    await watch.all()
    skew = {(s["set"], s["feature"]): s for s in watch.page["lateness_skew"]}
    assert set(skew) == {(s.name, f.name) for s in SETS for f in s.features}
    usable = Counter(
        (r.set, f.name)
        for p in rig.passports
        for r, feature_set in zip(p.sets, SETS, strict=True)
        for f, status in zip(feature_set.features, r.statuses, strict=True)
        if status not in (Status.AHEAD, Status.EXPIRED)
    )
    assert {key: s["compared"] for key, s in skew.items()} == {key: usable[key] for key in skew}
    assert any(s["differing"] for s in skew.values())
    assert all(0 <= s["share"] <= 1 for s in skew.values())


async def test_a_round_runs_in_a_process_of_its_own_and_its_failure_is_told_not_fatal(tmp_path: Path) -> None:
    """The real process once; then one that cannot judge, in the prover's own loop, which goes on."""
    rig, lake = archived(tmp_path, 4)
    watch = Watch(tmp_path, lake, run=run_module)
    assert await watch.prover.round(PLAN)
    assert watch.page["checked"] == len(rig.passports)
    asked = asyncio.Event()

    async def failing(*_: object) -> Ended:
        asked.set()
        return Ended(2, b"", "the lake is away")

    other = Watch(tmp_path / "other", lake, run=failing)
    await other.prover.start()
    await asked.wait()
    await asyncio.sleep(0)
    await other.prover.stop()
    assert "the lake is away" in other.page["trouble"]


async def test_proof_begins_anew_where_the_passports_lie_in_another_topic(tmp_path: Path) -> None:
    """Goal: positions of one incarnation skip nothing of the next. Method: proved to the end, then the lake says another id."""
    rig, lake = archived(tmp_path, 4)
    facts = TopicFacts(positions=LakeReader(lake).positions(PREDICTIONS_TOPIC, 64), topic_id="first")
    watch = Watch(tmp_path, lake)
    watch.prover._reached.facts[PREDICTIONS_TOPIC] = facts
    await watch.all()
    again = Watch(tmp_path, lake)
    again.prover._reached.facts[PREDICTIONS_TOPIC] = facts
    assert not await again.prover.round(PLAN)
    again.prover._reached.facts[PREDICTIONS_TOPIC] = replace(facts, topic_id="second")
    await again.all()
    assert again.page["checked"] == len(rig.passports)


def test_verdicts_are_kept_apart_by_the_topics_they_were_judged_in() -> None:
    """Goal: a table begun anew is judged from its beginning. An unknown id keeps the name it had."""
    names = {kept_name(PLAN, PLAN, ids) for ids in ({}, {"weather": "a"}, {"weather": "b"}, {"departures": "a"})}
    assert len(names) == 4
    assert kept_name(PLAN, PLAN) == kept_name(PLAN, PLAN, {})
