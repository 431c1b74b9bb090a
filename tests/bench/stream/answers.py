"""What must come out, computed by DuckDB from the generated input: nothing of any contender is used.

    judged  late records and second copies left out: ours, whose verdicts do that
    plain   late records left out: an engine that knows no duplicates counts a second copy too

The closing records are never part of an answer: they close windows, and theirs stay open.
"""

from __future__ import annotations

from typing import Literal

import duckdb
import polars as pl

from bench.stream.inputs import AFTER_MS, KEYS, Kind, Trade, key_texts, texts

Edition = Literal["judged", "plain"]
_COUNTED = {"judged": (int(Kind.PLAIN),), "plain": (int(Kind.PLAIN), int(Kind.DUPLICATE))}


def windows(frame: pl.DataFrame, edition: Edition, size_ms: int, hop_ms: int) -> pl.DataFrame:
    """Columns key, start, end, count, total: one row per window that holds something."""
    query = f"""
        select key, start, start + {size_ms} as "end", count(*) as count, sum(value)::bigint as total
        from (select key, value, moment - moment % {hop_ms} - step * {hop_ms} as start
              from counted, range({size_ms // hop_ms}) steps(step))
        group by key, start"""
    return _asked(frame, edition, query)


def sessions(frame: pl.DataFrame, edition: Edition, gap_ms: int) -> pl.DataFrame:
    """As `windows`: rows at most a gap apart, from the first to just behind the last."""
    query = f"""
        select key, min(moment) as start, max(moment) + 1 as "end", count(*) as count, sum(value)::bigint as total
        from (select *, sum(opens) over (partition by key order by moment, id rows unbounded preceding) as number
              from (select *, coalesce(moment - before > {gap_ms}, true)::int as opens
                    from (select *, lag(moment) over (partition by key order by moment, id) as before from counted)))
        group by key, number"""
    return _asked(frame, edition, query)


def pairs(found: Trade) -> pl.DataFrame:
    """Columns order_id, ordered_at, settled_at, ordered, settled."""
    with duckdb.connect() as database:
        database.register("orders", found.orders)
        database.register("payments", found.payments)
        answer = database.sql(f"""
            select printf('%010d', o."order") as order_id, o."at" as ordered_at, p."at" as settled_at, o.amount as ordered,
                   p.amount as settled
            from orders o join payments p on o."order" = p."order" and p."at" between o."at" and o."at" + {AFTER_MS}""")
        return pl.DataFrame(answer.to_arrow_table())


def _asked(frame: pl.DataFrame, edition: Edition, query: str) -> pl.DataFrame:
    names = pl.DataFrame({"key": range(KEYS), "name": texts(key_texts("k", KEYS))}, schema_overrides={"key": pl.Int32})
    with duckdb.connect() as database:
        database.register("readings", frame)
        kinds = ", ".join(map(str, _COUNTED[edition]))
        columns = 'id, key, "at" as moment, value'  # `at` is a word of the language
        database.execute(f"create view counted as select {columns} from readings where kind in ({kinds})")
        found = pl.DataFrame(database.sql(query).to_arrow_table())
    return found.join(names, "key").drop("key").rename({"name": "key"}).select("key", "start", "end", "count", "total")
