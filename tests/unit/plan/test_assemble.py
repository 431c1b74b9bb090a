"""Many rows at once are the rows one by one, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.declare.compile import compile as compiled
from headrace.declare.load import load
from headrace.plan.assemble import Assembler
from headrace.plan.ir import Field

PLAN = compiled(load(Path(__file__).parents[3] / "schemas" / "pipelines" / "flights"))
MODEL = PLAN.models[0]
REQUEST = next(e for e in PLAN.events if e.name == MODEL.request)
POLARS = {"string": pl.String, "boolean": pl.Boolean}


def field_values(field: Field) -> st.SearchStrategy[object]:
    if field.type == "string":
        values: st.SearchStrategy[object] = st.sampled_from(["EWR", "JFK", "ORD", ""])
    elif field.type == "boolean":
        values = st.booleans()
    else:
        low = field.minimum if field.minimum is not None else 0 if field.type == "timestamp" else -(10**6)
        high = field.maximum if field.maximum is not None else 4 * 10**12 if field.type == "timestamp" else 10**6
        values = st.integers(low, high)
    return st.none() | values if field.nullable else values


NUMBERS = st.just(float("nan")) | st.floats(allow_nan=False, allow_infinity=False, width=64) | st.sampled_from([0.0, 1.0, -0.5])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_table_of_requests_is_assembled_as_each_of_them_alone(data: st.DataObject) -> None:
    assembler = Assembler(PLAN, MODEL)
    requests = data.draw(
        st.lists(st.fixed_dictionaries({f.name: field_values(f) for f in REQUEST.fields}), min_size=1, max_size=12)
    )
    values = {
        s.name: np.array([data.draw(st.lists(NUMBERS, min_size=len(s.features), max_size=len(s.features))) for _ in requests])
        for s in PLAN.feature_sets
    }
    frame = pl.DataFrame(requests, schema={f.name: POLARS.get(f.type, pl.Int64) for f in REQUEST.fields})
    with np.errstate(over="ignore"):
        rows, scores = assembler.table(frame, values)
        for i, request in enumerate(requests):
            of = {name: [None if np.isnan(v) else float(v) for v in array[i]] for name, array in values.items()}
            alone = assembler.assemble(request, of)
            assert rows[i].tobytes() == alone.row.tobytes()
            assert scores[i] == alone.rule_score
