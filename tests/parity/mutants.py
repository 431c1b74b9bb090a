"""Deviations of the serving side, each of which the comparison must catch. The recomputation always speaks the law.

A mutant is tried on small worlds without a broker: the online path of the law's worlds, or the real stream workers and
views on the bus in memory. Patches are taken back before anything is recomputed, since `lower` is shared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from headrace.plan.ir import FeatureSet
from headrace.plan.offline import as_served
from parity import deviations
from support import law_mutants
from support.law_worlds import DEPARTURES, EVENTS, ORIGIN_LOAD, Passport, World, database, hexed, make_world, serve
from unit.svc_stream.rig import ORIGIN, Rig

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Mutant:
    """mutate is called anew for each world. where: the pure online path, or real workers, or real views behind them."""

    name: str
    mutate: Callable[[Patch], None]
    where: Literal["law", "workers", "views"] = "law"


def caught(mutant: Mutant | None, seeds: Iterable[int]) -> str | None:
    """What differed first, None if nothing did. No mutant: the honest path, which must differ nowhere."""
    for seed in seeds:
        found = _on_law(mutant, seed) if mutant is None or mutant.where == "law" else _on_engine(mutant, seed)
        if found is not None:
            return f"seed {seed}: {found}"
    return None


def honest_engine(seeds: Iterable[int]) -> str | None:
    """The same for workers and views without a mutant."""
    return next((f for f in (_on_engine(None, seed) for seed in seeds) if f is not None), None)


def _on_law(mutant: Mutant | None, seed: int) -> str | None:
    world = chained(make_world(seed))
    with pytest.MonkeyPatch.context() as patch:
        if mutant:
            mutant.mutate(patch)
        passports = serve(world, ORIGIN_LOAD, random.Random(seed))
    return differing(world, ORIGIN_LOAD, passports)


def chained(world: World) -> World:
    """The world with one id that comes four times at its end, each within the horizon of the one before it only."""
    log = list(world.log)
    last = max((r for r in log if r.event == "departures" and r.fields is not None), key=lambda r: r.append_ms)
    offset = max(r.offset for r in log if (r.event, r.partition) == (last.event, last.partition))
    step = DEPARTURES.dedup_horizon_ms * 2 // 3
    for number, ident in enumerate(("chain", "chain", "chain", "chain", "after")):
        at = last.append_ms + (number + 1) * step
        fields = {**(last.fields or {}), "origin": "EWR", "flight_id": ident, DEPARTURES.time: at, "delay": 40}
        log.append(replace(last, offset=offset + number + 1, append_ms=at, fields=fields))
    return replace(world, log=tuple(log))


def differing(world: World, feature_set: FeatureSet, passports: Sequence[Passport]) -> str | None:
    """The first value or status that DuckDB says otherwise."""
    rows = as_served(database(world, passports), feature_set, EVENTS, world.base_floor_ms).features
    for passport, values, statuses in zip(passports, rows.rows(), rows.statuses.tolist(), strict=True):
        said = list(zip(hexed(values), statuses, strict=True))
        for feature, mine, theirs in zip(
            feature_set.features, zip(passport.values, passport.statuses, strict=True), said, strict=True
        ):
            if mine != theirs:
                return f"{feature.name} of {passport.entity!r}: served {mine}, recomputed {theirs}"
    return None


def _on_engine(mutant: Mutant | None, seed: int) -> str | None:
    """Workers that come and go over half-read logs, then views that are asked; the naive oracle at their cuts."""
    rig, rng = Rig(), random.Random(seed)
    log = sorted(make_world(seed).log, key=lambda r: r.append_ms)
    with pytest.MonkeyPatch.context() as patch:
        if mutant and mutant.where == "workers":
            mutant.mutate(patch)
        for share in (0.4, 0.7, 1.0):
            rig.send(log[len(rig.log) : int(len(log) * share)])
            worker = rig.worker(ORIGIN, lose_disk=rng.random() < 0.5)
            rig.drain(worker, rng=rng)
            worker.close()
    try:
        with pytest.MonkeyPatch.context() as patch:
            if mutant and mutant.where == "views":
                mutant.mutate(patch)
            rig.compare(ORIGIN, rng, questions=20)
    except AssertionError as error:
        return str(error).splitlines()[0][:160]
    return None


MUTANTS: tuple[Mutant, ...] = (
    *(Mutant(mutate.__name__, mutate) for mutate in law_mutants.ONLINE),
    *(Mutant(mutate.__name__, mutate, "workers") for mutate in deviations.WORKERS),
    *(Mutant(mutate.__name__, mutate, "views") for mutate in deviations.VIEWS),
)
