"""A set that starts from a base and reads on ends where a set ends that read everything, tile for tile, whatever dies."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace.chassis.bus import TopicPartition, TopicSpec
from headrace.chassis.bus_memory import MemoryConsumer
from headrace.chassis.errors import Fatal, OutcomeUnknown, PipelineFault, Retryable
from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import BASES
from headrace.contracts.partition import partition_for
from headrace.contracts.records import Progress, StateImported
from headrace.plan.bases import Base, BaseFile, PartitionBase, SourceBase, blocks_file, ids_file, to_json
from headrace.plan.ir import FeatureSet
from headrace.plan.oracle import RawRecord
from headrace.plan.tiles import Block, BlockKey, apply, expire, floor_ms, lift
from headrace.plan.verdicts import SourceState
from support.law_worlds import EVENTS, frame_of, judge_frame
from svc_stream.base import ANNOUNCED, Bases
from unit.svc_stream.owned_world import OWNED, OWNED_PLAN, answers, check_answers, keyed
from unit.svc_stream.rig import GATE, ORIGIN, Rig, by_append, maxima_of, progress_records, world
from unit.svc_stream.test_crashes import Killed, each_operation


@dataclass
class BasedRig(Rig):
    """A rig whose workers look for bases."""

    folder: Path = Path()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objects = FolderObjectStore(self.folder)
        self.broker.create(TopicSpec(BASES, 1))
        self.bases = Bases(self.bus, self.codec, self.objects)

    def announce(self, feature_set: FeatureSet, floor: int | None = None) -> None:
        """A base of all that was sent so far, computed naively."""
        stored = self.objects.put(to_json(self.base(feature_set, floor)), ".json")
        announced = StateImported(
            pipeline=self.plan.pipeline, set=feature_set.name, set_hash=feature_set.hash, reference=stored.reference,
            digest=stored.digest,
        )  # fmt: skip
        self.bus.producer("features").produce(BASES, self.codec.encode(BASES, announced), b"", 0)

    def base(self, feature_set: FeatureSet, base_floor: int | None) -> Base:
        blocks: dict[BlockKey, Block] = {}
        maxima: dict[str, int | None] = {}
        sources = []
        for name in feature_set.events:
            for partition in range(EVENTS[name].partitions):
                records = [r for r in self.log if (r.event, r.partition) == (name, partition)]
                source = self._fold(feature_set, name, partition, records, blocks)
                sources.append(source)
                maxima[name] = max((m for m in (maxima.get(name), source.maximum_ms) if m is not None), default=None)
        kept: dict[int, list[tuple[BlockKey, Block]]] = {}
        for key in sorted(blocks):
            floor = floor_ms(feature_set, key.event, maxima, base_floor)
            block = expire(blocks[key], floor, endless=not key.hop_ms)
            if len(block.starts_ms):
                kept.setdefault(partition_for(key.entity, feature_set.partitions), []).append((key, block))
        partitions = tuple(PartitionBase(p, (self._put(blocks_file(found), len(found)),)) for p, found in kept.items())
        return Base(
            self.plan.pipeline, feature_set.name, feature_set.hash, self.plan.semantics_version, base_floor, tuple(sources),
            partitions,
        )  # fmt: skip

    def _fold(
        self, feature_set: FeatureSet, name: str, partition: int, records: list[RawRecord], blocks: dict[BlockKey, Block]
    ) -> SourceBase:
        event, state = EVENTS[name], SourceState()
        if records:
            frame = frame_of(event, records)
            for piece in lift(feature_set, event, frame.filter(judge_frame(state, event, frame).accepted)):
                apply(feature_set, piece, blocks)
        ids = self._put(ids_file(state.ids), len(state.ids)) if state.ids else None
        end = self.broker.log(TopicPartition(event.topic, partition)).next_offset if records else 0
        topic_id = self.bus.admin().topic_id(event.topic)
        return SourceBase(name, topic_id, partition, end, state.maximum_ms, tuple(state.raises), ids)

    def _put(self, data: bytes, rows: int) -> BaseFile:
        stored = self.objects.put(data, ".parquet")
        return BaseFile(stored.reference, stored.digest, rows)

    def lose_history(self) -> None:
        """Retention takes all that was sent so far."""
        for event in self.plan.events:
            for partition in range(event.partitions):
                log = self.broker.log(TopicPartition(event.topic, partition))
                log.truncate_before(log.next_offset)


def lives(rig: Rig, feature_set: FeatureSet, rng: random.Random) -> None:
    """Workers that die without a word, some of them with their disk, until nothing is left to do."""
    for _ in range(4):
        worker = rig.worker(feature_set, lose_disk=rng.random() < 0.5)
        for _ in range(rng.randint(1, 6)):
            rig.round(worker, rng.choice((1, 3, 20)))
        worker.close()
    rig.drain(rig.worker(feature_set, lose_disk=True), rng=rng)


def facts(rig: Rig, feature_set: FeatureSet) -> object:
    """Tiles, and cut and maxima of each partition."""
    views = [rig.view(feature_set, p) for p in range(feature_set.partitions)]
    return rig.state(feature_set), [rig.cut(v) for v in views], [maxima_of(v) for v in views]


def base_names(rig: Rig, feature_set: FeatureSet) -> set[str]:
    return {rig.codec.decode(r.value, Progress).base_digest for r in progress_records(rig, feature_set)}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("feature_set", [ORIGIN, GATE], ids=lambda s: s.name)
def test_a_base_and_the_records_after_its_cut_are_a_stream_only_state(
    tmp_path: Path, seed: int, feature_set: FeatureSet
) -> None:
    """Method: the history is gone from the log when the set starts; workers die at random; the oracle is asked at the end."""
    rng, records = random.Random(seed), by_append(world(seed, 80))
    half = rng.randint(5, len(records) - 5)
    alone, based = Rig(), BasedRig(folder=tmp_path)
    for rig in (alone, based):
        rig.send(records[:half])
    based.announce(feature_set)
    based.lose_history()
    for rig in (alone, based):
        rig.send(records[half:])
    rig_rng = random.Random(seed)
    alone.drain(alone.worker(feature_set), rng=rig_rng)
    lives(based, feature_set, rng)
    assert facts(based, feature_set) == facts(alone, feature_set)
    based.compare(feature_set, rng, questions=20)
    names = base_names(based, feature_set)
    assert len(names) == 1 and names != {"empty"}, "every Progress names the one base"


def test_a_base_announced_after_the_choice_changes_nothing(tmp_path: Path) -> None:
    """The choice is made before the first record, and survives every death."""
    rig, records = BasedRig(folder=tmp_path), by_append(world(3, 60))
    rig.send(records[:40])
    first = rig.worker(ORIGIN)
    for _ in range(3):
        rig.round(first, 5)
    rig.announce(ORIGIN)
    first.close()
    rig.send(records[40:])
    rig.drain(rig.worker(ORIGIN, lose_disk=True))
    rig.compare(ORIGIN, random.Random(3), questions=20)
    assert base_names(rig, ORIGIN) == {"empty"}


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_outlives_the_brokers_memory_of_it(tmp_path: Path, seed: int) -> None:
    """Goal: offsets of a topic the group does not read expire. Method: forget it, announce another base, lose the disk."""
    rig, records = BasedRig(folder=tmp_path), by_append(world(seed, 80))
    rig.send(records[:50])
    rig.announce(ORIGIN)
    rig.lose_history()
    worker = rig.worker(ORIGIN)
    for _ in range(3):
        rig.round(worker)
    worker.close()
    del rig.broker.group(worker.group).offsets[ANNOUNCED]
    rig.send(records[50:60])
    rig.announce(ORIGIN)
    rig.send(records[60:])
    rig.drain(rig.worker(ORIGIN, lose_disk=True), rng=random.Random(seed))
    rig.compare(ORIGIN, random.Random(seed), questions=20)
    assert len(base_names(rig, ORIGIN)) == 1


@pytest.mark.parametrize("operation", ["commit_transaction", "send_offsets", "produce", "committed", "init_transactions"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("skip", range(3))
def test_an_import_that_fails_is_done_again(tmp_path: Path, operation: str, after: bool, skip: int) -> None:
    rig, records = BasedRig(folder=tmp_path), by_append(world(5, 60))
    rig.send(records[:50])
    rig.announce(GATE)
    rig.lose_history()
    rig.send(records[50:])
    worker = rig.worker(GATE)
    for _ in range(skip):
        rig.round(worker)
    error = OutcomeUnknown("timed out") if operation == "commit_transaction" else Retryable("down")
    rig.broker.fail(operation, error, after=after and operation == "commit_transaction")
    rig.drain(worker)
    rig.compare(GATE, random.Random(5), questions=20)


@pytest.mark.parametrize("moment", range(6))
def test_a_life_that_ends_inside_a_choice_or_an_import_does_not_stall_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Goal: what it left open is ended at once, not by its long timeout. Method: killed as each of its transactions commits.

    The real client assigns first and asks for offsets later; here they are not looked at when partitions are assigned.
    """
    rig, records = BasedRig(folder=tmp_path), by_append(world(5, 60))
    rig.send(records[:50])
    rig.announce(ORIGIN)
    rig.lose_history()
    rig.send(records[50:])
    monkeypatch.setattr(MemoryConsumer, "_stable", lambda self, group, partitions: [(p, None) for p in partitions])
    seen = 0

    def kill(name: str, after: bool) -> None:
        """From then on nothing of it runs any more."""
        nonlocal seen
        seen += name == "commit_transaction" and not after
        if seen > moment:
            raise Killed

    with suppress(Killed), each_operation(rig.broker, monkeypatch, kill):
        rig.drain(rig.worker(ORIGIN), rounds=40)
    begun_s = rig.clock.monotonic_s()
    rig.drain(rig.worker(ORIGIN, lose_disk=True))
    assert rig.clock.monotonic_s() - begun_s < 60, "far from the timeout of an import"
    rig.compare(ORIGIN, random.Random(5), questions=20)
    assert len(base_names(rig, ORIGIN)) == 1


def test_workers_without_the_first_partition_wait_for_the_choice(tmp_path: Path) -> None:
    """Two workers share the set; a base is announced; both start from it."""
    rig, records = BasedRig(folder=tmp_path), by_append(world(7, 80))
    rig.send(records[:60])
    rig.announce(ORIGIN)
    rig.lose_history()
    rig.send(records[60:])
    workers = [rig.worker(ORIGIN, "a"), rig.worker(ORIGIN, "b")]
    rig.drain(*workers, rng=random.Random(7))
    rig.compare(ORIGIN, random.Random(7), questions=20)


def test_without_a_base_a_log_that_lost_its_beginning_is_refused_with_the_way_out(tmp_path: Path) -> None:
    rig = BasedRig(folder=tmp_path)
    rig.send(by_append(world(1, 60)))
    rig.lose_history()
    rig.send(by_append(world(2, 10)))
    with pytest.raises(PipelineFault, match="headrace backfill"):
        rig.drain(rig.worker(ORIGIN))


def test_a_base_whose_bytes_are_not_what_was_announced_is_refused(tmp_path: Path) -> None:
    rig = BasedRig(folder=tmp_path)
    rig.send(by_append(world(1, 60)))
    rig.announce(ORIGIN)
    for path in tmp_path.rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"origin_load", b"origin_loaf"))
    with pytest.raises((PipelineFault, Fatal), match="digest"):
        rig.drain(rig.worker(ORIGIN))


def test_an_owned_set_waits_for_no_base(tmp_path: Path) -> None:
    """Its workers have no partials, whose first owner would choose; it reads its logs from the beginning."""
    rig = BasedRig(plan=OWNED_PLAN, folder=tmp_path)
    rig.send(keyed(1, 20))
    rig.drain(rig.worker(OWNED))
    check_answers(rig, answers(rig))
