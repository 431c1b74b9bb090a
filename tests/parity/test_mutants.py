"""Every deviation of the serving side is caught by the comparison, and the honest path is not."""

from __future__ import annotations

import pytest

from parity.mutants import MUTANTS, Mutant, caught, honest_engine

SEEDS = range(1, 61)  # a mutant stops at the first that shows it


def test_the_honest_path_differs_nowhere() -> None:
    assert caught(None, SEEDS[:24]) is None
    assert honest_engine(SEEDS[:6]) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_is_caught(mutant: Mutant) -> None:
    """The seven that were promised stand under their own names, the others beside them."""
    assert caught(mutant, SEEDS) is not None


def test_the_mutants_that_were_promised_are_there() -> None:
    promised = {
        "float_sum", "edge_low", "edge_high", "late_after_rekey", "maximum_per_batch", "dedup_by_wall_clock", "cut_one_too_far",
        "head_tile_from_the_future",
    }  # fmt: skip
    assert promised <= {m.name for m in MUTANTS}
