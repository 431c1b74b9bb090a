"""`make parity` in small: the same code on the same real components, and that it sees one changed bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.declare import compile, load
from headrace_local.stack import clone_root
from parity.flights import flights_world
from parity.generated import SHAPES, law_world
from parity.playing import Played, play
from parity.recomputing import recompute
from parity.run import FULL, FULL_FLIGHTS, FULL_READS_MIN, QUICK
from parity.worlds import Mode, World


def _silent(_what: str, _count: int) -> None: ...


def _played(world: World, kafka: str, registry_url: str, folder: Path) -> Played:
    return play(world, kafka, registry_url, folder, 7, _silent)


@pytest.mark.timeout(280)
@pytest.mark.parametrize(("number", "mode"), [(1, Mode.TWO), (2, Mode.IMPORTED), (3, Mode.OWNED)], ids=str)
def test_a_generated_log_is_served_and_recomputed_bit_for_bit_and_a_changed_bit_is_seen(
    kafka: str, registry_url: str, tmp_path: Path, number: int, mode: Mode
) -> None:
    """Goal: no difference between served, DuckDB and oracle, however state comes about; then exactly the one that was made."""
    world = law_world(7, number, 900, 9_000)
    assert world.mode is mode
    played = _played(world, kafka, registry_url, tmp_path)
    found = recompute(played, 0.1, tmp_path, _silent)
    assert (found.differing, found.mismatches) == (0, [])
    assert found.reads >= world.reads() >= 9_000
    assert 3 * found.fresh >= found.reads  # some lag and sleep; half is asked of all worlds together
    assert found.oracle_reads > 100
    facts: Any = played.facts
    assert sum(facts["workers_killed"].values()) > 0
    assert (facts["tasks_moved"] > 0) >= (mode is Mode.TWO)
    assert (facts["imported"] == len(world.plan.feature_sets)) is (mode is Mode.IMPORTED)
    assert (facts["rows_answered"] > 0) is (mode is Mode.OWNED)
    values = played.answers["origin_load"].values[0]
    row, column = next(zip(*np.nonzero(np.isfinite(values)), strict=True))
    values[row, column] = np.nextafter(values[row, column], np.inf)
    assert recompute(played, 0.0, tmp_path, _silent).bits_differing == 1


@pytest.mark.timeout(280)
def test_days_of_real_flights_are_served_and_recomputed_bit_for_bit(kafka: str, registry_url: str, tmp_path: Path) -> None:
    world = flights_world(clone_root(), 7, 3, 1.0)
    found = recompute(_played(world, kafka, registry_url, tmp_path), 0.02, tmp_path, _silent)
    assert (found.differing, found.mismatches) == (0, [])
    assert found.reads == world.reads() > 10_000
    assert 2 * found.fresh >= found.reads


def test_the_full_run_asks_what_is_promised_and_holds_every_mode_and_the_quick_one_does_too() -> None:
    """Goal: ten million values. Method: counted from what each flight and each world asks; owners' rows are more than that."""
    plan = compile(load(clone_root() / "schemas" / "pipelines" / "flights"))
    flights = FULL_FLIGHTS * FULL.asks_per_flight * sum(len(s.features) for s in plan.feature_sets)
    asking = [shape for shape in SHAPES[: FULL.law_worlds] if shape.mode is not Mode.OWNED]
    assert flights + len(asking) * FULL.law_reads > 1.02 * FULL_READS_MIN
    for size in (FULL, QUICK):
        assert {shape.mode for shape in SHAPES[: size.law_worlds]} == set(Mode)
