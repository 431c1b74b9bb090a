"""A base computed from the lake is what a stream worker would hold at its cut, tile for tile, whoever died on the way."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.partition import partition_for
from headrace.plan import bases, tiles, verdicts
from headrace.plan.bases import Base, read_blocks, read_ids
from headrace.plan.ir import FeatureSet
from headrace.plan.tiles import BlockKey, floor_ms
from support.law_worlds import make_world
from svc_features import backfill
from svc_features.adapters.lake import LakeReader
from svc_features.backfill import Backfill, SourcePin
from svc_features.warehouse import connect
from unit.svc_features.worlds import EVENTS, PLAN, SETS, Rig, View, played

Tiles = dict[tuple[BlockKey, int], list[int]]


LOST = 4  # offsets that retention took from the topic before anything was archived


class Killed(BaseException):
    """The process is gone."""


def archived(tmp_path: Path, seed: int) -> Rig:
    rig = played(make_world(seed), random.Random(seed), asks=10)
    rig.archived(tmp_path / "lake")
    return rig


def pins(rig: Rig, feature_set: FeatureSet, share: float = 1.0, whole: bool = True) -> list[SourcePin]:
    """A cut at this share of each partition's archived records."""
    found = []
    for name in feature_set.events:
        for partition in range(EVENTS[name].partitions):
            records = [r for r in rig.log if (r.event, r.partition) == (name, partition)]
            end = records[max(0, int(len(records) * share) - 1)].offset + 1 if records else 0
            found.append(SourcePin(name, partition, f"id of {name}", end, whole))
    return found


def job(tmp_path: Path, feature_set: FeatureSet, cut: Sequence[SourcePin], name: str = "job", **settings: Any) -> Backfill:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    return Backfill(
        PLAN, feature_set, cut, reader=LakeReader(tmp_path / "lake"), objects=FolderObjectStore(tmp_path / "objects"),
        connection=connect(1, 500, folder / "spill", folder / "lake.duckdb"), folder=folder, **settings,
    )  # fmt: skip


def tiles_of(tmp_path: Path, base: Base, feature_set: FeatureSet) -> Tiles:
    objects, found = FolderObjectStore(tmp_path / "objects"), Tiles()
    for partition in base.partitions:
        for file in partition.files:
            for key, block in read_blocks(objects.get(file.reference, file.digest)):
                assert partition_for(key.entity, feature_set.partitions) == partition.partition
                for start, slots in zip(block.starts_ms.tolist(), block.slots.tolist(), strict=True):
                    found[key, start] = slots
    return found


def streamed(rig: Rig, feature_set: FeatureSet, cut: Sequence[SourcePin]) -> tuple[Tiles, View]:
    """What a stream-only worker holds at the cut, without what is below the floor: when that goes depends on batches."""
    view = View(feature_set)
    for pin in cut:
        records = [r for r in rig.log if (r.event, r.partition) == (pin.event, pin.partition) and r.offset < pin.next_offset]
        while records:
            view.apply(EVENTS[pin.event], records[:7])
            records = records[7:]
    maxima: dict[str, int | None] = {}
    for (event, _), state in view.source.items():
        maxima[event] = max((m for m in (maxima.get(event), state.maximum_ms) if m is not None), default=None)
    found = Tiles()
    for key, block in view.blocks.items():
        kept = tiles.expire(block, floor_ms(feature_set, key.event, maxima, None), endless=not key.hop_ms)
        for start, slots in zip(kept.starts_ms.tolist(), kept.slots.tolist(), strict=True):
            found[key, start] = slots
    return found, view


@pytest.mark.parametrize("feature_set", SETS, ids=lambda s: s.name)
@pytest.mark.parametrize("seed", range(5))
def test_the_base_holds_the_tiles_maxima_and_ids_of_a_stream_at_the_same_cut(
    tmp_path: Path, seed: int, feature_set: FeatureSet
) -> None:
    """Method: late, duplicate, poison, null and undecodable records, a cut in their middle, pieces of a few records."""
    rng = random.Random(seed)
    rig = archived(tmp_path, seed)
    cut = pins(rig, feature_set, rng.choice((0.3, 0.8, 1.0)))
    base, stored, records = job(
        tmp_path, feature_set, cut, fold_rows=rng.randint(1, 30), merge_records=rng.randint(5, 80)
    ).run()
    expected, view = streamed(rig, feature_set, cut)
    assert tiles_of(tmp_path, base, feature_set) == expected
    assert expected
    objects = FolderObjectStore(tmp_path / "objects")
    assert bases.from_json(objects.get(stored.reference, stored.digest)) == base
    for source in base.sources:
        state = view.source.get((source.event, source.partition), verdicts.SourceState())
        verdicts.prune_ids(state, EVENTS[source.event].dedup_horizon_ms)
        assert source.maximum_ms == state.maximum_ms
        assert (read_ids(objects.get(source.ids.reference, source.ids.digest)) if source.ids else {}) == state.ids
        assert source.raises[:1] == tuple(state.raises)[:1], "a restore would begin at the same record"
    under = [r for r in rig.log for p in cut if (r.event, r.partition) == (p.event, p.partition) and r.offset < p.next_offset]
    assert records == len(under)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_step_and_resumed_it_ends_in_the_same_digest(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Method: at each file a job writes it dies before it, after it, or not, by lot, until it has ended."""
    rig, feature_set, rng = archived(tmp_path, seed), SETS[seed % 2], random.Random(seed)
    cut = pins(rig, feature_set)
    whole = job(tmp_path, feature_set, cut, "undisturbed", fold_rows=25, merge_records=60).run()
    real = backfill.write_whole

    def dying(path: Path, data: bytes) -> None:
        fate = rng.random()
        if fate < 0.15:
            raise Killed
        real(path, data)
        if fate < 0.3:
            raise Killed

    lives = 0
    monkeypatch.setattr(backfill, "write_whole", dying)
    while lives < 200:
        lives += 1
        attempt = job(tmp_path, feature_set, cut, fold_rows=25, merge_records=60)
        try:
            found = attempt.run()
            break
        except Killed:
            attempt._db.close()
    else:
        raise AssertionError("it never ends")
    assert found == whole
    assert lives > 3


def test_a_log_without_its_beginning_gives_a_floor(tmp_path: Path) -> None:
    rig = archived(tmp_path, 1)
    feature_set = SETS[0]
    DeltaTable(str(tmp_path / "lake" / EVENTS["departures"].topic)).delete(f"off < {LOST}")
    cut = [replace(p, whole=p.event != "departures") for p in pins(rig, feature_set)]
    base, _, _ = job(tmp_path, feature_set, cut).run()
    left = [r for r in rig.log if r.event == "departures" and r.offset >= LOST]
    firsts = [min((r.offset, r.append_ms) for r in left if r.partition == p) for p in {r.partition for r in left}]
    assert (
        base.floor_ms is not None
        and base.floor_ms == max(append for _, append in firsts) + EVENTS["departures"].poison_bound_ms
    )
    assert all(start >= base.floor_ms for (key, start) in tiles_of(tmp_path, base, feature_set) if key.hop_ms)
