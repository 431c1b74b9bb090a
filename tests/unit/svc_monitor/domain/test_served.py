"""Recent rows as blocks: all of them, in order, and never more than allowed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_monitor.domain import served
from svc_monitor.domain.served import ServedRows


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 40))
def test_the_newest_rows_are_kept_in_order_and_the_bound_holds(sealed: list[bool], rows_max: int) -> None:
    """Rows are added and sealed at will; what is handed out block by block is everything, what is kept the newest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "BLOCK_ROWS", 8)
        rows = ServedRows(2, rows_max)
        handed = []
        for t, seal in enumerate(sealed):
            handed += [rows.add(t, (t, np.nan))]
            handed += [rows.seal()] if seal else []
        handed.append(rows.seal())
    out = [t for block in handed if block is not None for t in block[0].tolist()]
    kept = [t for times, _ in rows.blocks() for t in times.tolist()]
    assert out == list(range(len(sealed)))
    assert kept == out[rows.forgotten :]
    assert min(len(sealed), rows_max - 7) <= len(kept) <= max(rows_max, 8)
    assert all(inputs.dtype == np.float32 and inputs.shape[1] == 2 for _, inputs in rows.blocks())
