"""Which requests a data set holds, with which label: a table in the build's database, in the order of the rows.

An outcome is the first of its id by offset. How a request without one is read is declared:

    drop      labelled by what is known at the end of the window; without an outcome, out
    negative  judged at its own maturity: no outcome by then is a false label; not mature yet, out
    keep      the same, with a null label
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import duckdb

from headrace.plan.expressions import Expression
from headrace.plan.ir import EventType, Model
from headrace.plan.offline import quoted
from svc_features.domain.dataset import outcomes_sql, requests_sql

COUNTS = (
    "count(case when kept then 1 end), count(case when not kept then 1 end), count(case when kept and not known then 1 end)"
)
_WITHOUT = {"drop": "null", "negative": "false", "keep": "null"}


@dataclass(frozen=True, slots=True)
class Window:
    """Requests with t in [from_ms, until_ms), outcomes known by mature_until_ms; event time, ms UTC."""

    from_ms: int
    until_ms: int
    mature_until_ms: int


@dataclass(frozen=True, slots=True)
class Selected:
    """rows: in table `selected` (pid from 0, the request's fields, headrace_label). dropped: requests without a label."""

    rows: int
    dropped: int
    unlabelled: int


def asked_for_sql(
    model: Model, request: EventType, outcome: EventType, window: Window, lowered: Callable[[Expression], str]
) -> str:
    """SELECT the request's fields, kept, known, headrace_label of every request in the window, in no order.

    It reads verdict_<event> and is written in what DuckDB and Spark have in common; `lowered` lowers row expressions.
    """
    label, mature = model.label, int(window.mature_until_ms)
    t, seen = f"r.{quoted(request.time)}", "l.known_ms"
    if label.unlabelled == "drop":
        known, kept = f"{seen} <= {mature}", f"coalesce({seen} <= {mature} and not l.excluded, false)"
    else:
        ripe = f"{t} + {int(label.mature_ms)}"
        known = f"coalesce({seen} <= least({mature}, {ripe}), false)"
        kept = f"case when {known} then not l.excluded else {ripe} <= {mature} end"
    fields = ", ".join(f"r.{quoted(f.name)}" for f in request.fields)
    return f"""
select {fields}, {kept} as kept, coalesce({known}, false) as known,
  case when {known} then l.label else {_WITHOUT[label.unlabelled]} end as headrace_label
from ({requests_sql(model, request, window.from_ms, window.until_ms)}) r
left join ({outcomes_sql(model, outcome, lowered)}) l on l."join" = r.{quoted(label.join)}"""


def select(
    connection: duckdb.DuckDBPyConnection, model: Model, request: EventType, outcome: EventType, window: Window
) -> Selected:
    """CREATE selected: requests in the order of (t, request id), each with its label."""
    asked_for = asked_for_sql(model, request, outcome, window, Expression.to_duckdb)
    connection.execute(f"create or replace table asked_for as {asked_for}")
    connection.execute(f"""
create or replace table selected as select row_number() over () - 1 as pid, * exclude (kept, known) from (
  select * from asked_for where kept order by {quoted(request.time)}, {quoted(model.request_id)})""")
    ((rows, dropped, unlabelled),) = connection.execute(f"select {COUNTS} from asked_for").fetchall()
    connection.execute("drop table asked_for")
    return Selected(rows, dropped, unlabelled)
