"""Tiles that nobody touches again leave the state, and nothing else does."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest

from headrace.chassis.bus import TopicPartition
from headrace.chassis.state import MemoryStore, RocksStore, Store
from headrace.contracts.records import Progress
from headrace.plan.oracle import RawRecord
from headrace.plan.tiles import Block, BlockKey, decode_key, encode_key
from headrace.plan.topics import state_topic
from support.law_worlds import HOUR, MIN
from svc_stream.domain import entity as entity_module
from svc_stream.domain import sweep as sweep_module
from svc_stream.domain.sweep import Sweep, SweepPlace
from svc_stream.tasks import SWEEP_KEY
from unit.svc_stream.rig import ORIGIN, Rig
from unit.svc_stream.test_crashes import Killed, killed_at
from unit.svc_stream.test_handlers import NOW

TTL = ORIGIN.ttl_ms


@pytest.fixture(autouse=True)
def at_every_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worlds here have too few commits to skip any."""
    monkeypatch.setattr(entity_module, "COMMITS_PER_SWEEP", 1)


def stored(rng: random.Random, entities: int) -> dict[BlockKey, Block]:
    """Blocks of all levels around the ttl: whole, partly and not at all below a floor."""
    found: dict[BlockKey, Block] = {}
    for n in range(entities):
        for event, hop in (("departures", 5 * MIN), ("departures", HOUR), ("weather", 0)):
            if rng.random() < 0.3:
                continue
            newest = NOW - rng.randint(0, 2 * TTL)
            first = newest // (16 * hop) * 16 if hop else 0
            starts = sorted(rng.sample(range(first, first + 16), rng.randint(1, 16))) if hop else [0]
            key = BlockKey(f"E{n}", event, hop, first // 16 if hop else 0)
            slots = np.full((len(starts), 8), newest, np.int64)
            found[key] = Block(np.array(starts, np.int64) * hop, slots)
    return found


def store_of(blocks: dict[BlockKey, Block], raw: dict[bytes, Block]) -> MemoryStore:
    store = MemoryStore()
    for number, (key, block) in enumerate(blocks.items()):
        raw[str(number).encode()] = block
        store.write({encode_key(ORIGIN, key): str(number).encode()})
    return store


def sweep_over(store: Store, raw: dict[bytes, Block], place: SweepPlace) -> Sweep:
    return Sweep(ORIGIN, lambda first, limit: list(store.scan(first, b"\x02"))[:limit], lambda value: raw[value], place)


@pytest.mark.parametrize("seed", range(40))
def test_a_pass_in_any_steps_and_lives_deletes_what_the_naive_expiry_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of keys per commit; blocks the commit changes stay; some are in memory; between two commits all
    but the place is lost."""
    rng = random.Random(seed)
    monkeypatch.setattr(sweep_module, "KEYS_MIN", rng.choice((1, 2, 7, 100)))
    blocks, raw = stored(rng, rng.randint(0, 30)), {}
    store = store_of(blocks, raw)
    floors: dict[str, int | None] = {"departures": NOW - TTL, "weather": rng.choice((None, NOW - TTL // 2))}
    expected = set()
    for key, block in blocks.items():
        floor, times = floors[key.event], block.starts_ms if key.hop_ms else block.slots[:, 0]
        if floor is not None and all(time < floor for time in times.tolist()):
            expected.add(key)
    busy = {key for key in blocks if rng.random() < 0.1}
    gone: set[BlockKey] = set()
    place = SweepPlace()
    for _ in range(200):
        sweep = sweep_over(store, raw, SweepPlace.decode(place.encode()))
        held = {key: block for key, block in blocks.items() if key not in busy and rng.random() < 0.5}
        found = sweep.step(floors, busy, rng.choice((0, 0, 3)), held)
        store.write({}, [encode_key(ORIGIN, key) for key in found])
        gone |= set(found)
        place = sweep.place
    assert gone == expected - busy
    assert place.cursor is None and not sweep_over(store, raw, place).step(floors, (), 0, {}), (
        "a pass is over, the next one waits"
    )


def test_a_new_pass_waits_until_a_floor_has_risen_by_a_part_of_the_ttl() -> None:
    raw: dict[bytes, Block] = {}
    store = store_of(stored(random.Random(1), 3), raw)
    sweep = sweep_over(store, raw, SweepPlace())
    sweep.step({"departures": 0, "weather": None}, (), 0, {})
    assert sweep.place == SweepPlace(None, {"departures": 0})
    step = TTL // sweep_module.STEPS_PER_TTL
    sweep.step({"departures": step - 1, "weather": None}, (), 0, {})
    assert sweep.place.floors == {"departures": 0}
    sweep.step({"departures": step, "weather": None}, (), 0, {})
    assert sweep.place.floors == {"departures": step}


# -- the worker


def departure(number: int, origin: str, at_ms: int) -> RawRecord:
    fields = {"flight_id": f"F{number}", "origin": origin, "gate": 1, "departed_at": at_ms, "delay": number, "fare": 100}
    return RawRecord("departures", number % 3, 0, at_ms, fields)


def once_and_always(hours: int) -> list[RawRecord]:
    """Forty entities seen once in the first hour, one seen every hour for `hours`."""
    first = [departure(n, f"ONCE{n}", NOW + n * MIN) for n in range(40)]
    return first + [departure(100 + n, "EWR", NOW + HOUR + n * HOUR) for n in range(hours)]


def keys_of(rig: Rig, store: Store) -> set[BlockKey]:
    return {decode_key(ORIGIN, raw) for raw, _ in store.range(b"\x01")}


def play(rig: Rig, records: list[RawRecord], instance: str = "a") -> None:
    """Each record in a transaction of its own."""
    worker = rig.worker(ORIGIN, instance)
    for record in records:
        rig.send([record])
        rig.drain(worker)
    worker.close()


@pytest.mark.parametrize("keys_min", [1, 16])
def test_an_entity_never_seen_again_leaves_the_store_and_the_topic(
    keys_min: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "KEYS_MIN", keys_min)
    rig, paths = Rig(), {}
    for partition in range(ORIGIN.partitions):
        tp = TopicPartition(state_topic(rig.plan, ORIGIN), partition)
        paths[partition] = tmp_path / str(partition)
        rig.stores["a", tp] = RocksStore(paths[partition])  # type: ignore[assignment]
    log = once_and_always(hours=5 * TTL // HOUR)
    play(rig, log)
    for partition, path in paths.items():
        store = RocksStore(path)
        view = rig.view(ORIGIN, partition)
        left = keys_of(rig, store)
        assert left == keys_of(rig, view.store), "what the worker holds is what the topic says"
        assert {key.entity for key in left} <= {"EWR"}
        store.close()
    tombstoned = {
        decode_key(ORIGIN, r.key or b"").entity for r in rig.broker.records(state_topic(rig.plan, ORIGIN)) if not r.value
    }
    assert tombstoned >= {f"ONCE{n}" for n in range(40)}
    rig.compare(ORIGIN, random.Random(5))


def test_what_the_sweep_left_and_what_it_took_reads_as_the_oracle_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked on the way, at entities that are there, half gone, gone, and back again."""
    monkeypatch.setattr(sweep_module, "KEYS_MIN", 1)
    rng, rig = random.Random(8), Rig()
    worker = rig.worker(ORIGIN)
    for number in range(160):
        at = NOW + number * 40 * MIN
        rig.send([departure(number, rng.choice(("EWR", "JFK", "LGA", "")) if rng.random() < 0.1 else "never", at)])
        rig.drain(worker)
        if number % 20 == 0:
            rig.compare(ORIGIN, rng, questions=6)
    deleted = [r for r in rig.broker.records(state_topic(rig.plan, ORIGIN)) if r.value is None]
    assert deleted


@pytest.mark.parametrize("lose_disk", [False, True], ids=["disk kept", "disk lost"])
def test_a_kill_in_the_middle_of_a_sweep_loses_no_tile_and_keeps_no_dead_one(
    lose_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every fortieth call to the broker while a pass is under way."""
    monkeypatch.setattr(sweep_module, "KEYS_MIN", 2)
    log = once_and_always(hours=4 * TTL // HOUR)
    middle = 40 + TTL // HOUR + 2  # the first entities have just fallen below the floor
    for moment in range(1, 200, 40):
        rig = Rig()
        rig.send(log[:40])
        play(rig, log[40:middle])
        rig.send(log[middle : middle + 8])
        with killed_at(rig, monkeypatch, moment), contextlib.suppress(Killed):
            rig.drain(rig.worker(ORIGIN), rng=random.Random(moment))
        if lose_disk:
            rig.stores.clear()
        play(rig, log[middle + 8 :])
        for partition in range(ORIGIN.partitions):
            view = rig.view(ORIGIN, partition)
            mine = rig.stores["a", view.partition]
            assert keys_of(rig, mine) == keys_of(rig, view.store)
            assert {key.entity for key in keys_of(rig, mine)} <= {"EWR"}
            assert rig.codec.decode(mine.get(b"\x00progress") or b"", Progress) == view.progress
            assert SweepPlace.decode(mine.get(SWEEP_KEY)).floors
        rig.compare(ORIGIN, random.Random(moment), questions=6)
