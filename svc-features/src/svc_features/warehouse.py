"""The lake in DuckDB: raw events under a cut, and the verdicts of the law over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from headrace.contracts.errors import Fatal
from headrace.plan.ir import EventType, Field
from headrace.plan.offline import quoted, verdicts_sql
from svc_features.adapters.lake import LakeReader, has_path

_SQL_TYPES = {"string": "varchar", "boolean": "boolean", "float": "float", "double": "double"}


def connect(threads: int, memory_mb: int, spill: Path, file: Path | None = None) -> duckdb.DuckDBPyConnection:
    """A database in memory, or in a file, that spills to a folder instead of growing.

    `preserve_insertion_order` stays on: without it a result fetched as Arrow may lose the order of its ORDER BY.
    """
    connection = duckdb.connect() if file is None else duckdb.connect(str(file))
    connection.execute(f"set threads = {int(threads)}")
    connection.execute(f"set memory_limit = '{int(memory_mb)}MB'")
    connection.execute("set allocator_flush_threshold = '32MB'")  # or what is freed stays with the process
    connection.execute(f"set temp_directory = '{str(spill).replace(chr(39), chr(39) * 2)}'")
    return connection


def register(connection: duckdb.DuckDBPyConnection, name: str, frame: pl.DataFrame) -> None:
    """CREATE name from a frame."""
    connection.register("incoming", frame.to_arrow())
    connection.execute(f"create or replace table {quoted(name)} as select * from incoming")
    connection.unregister("incoming")


def load_verdicts(
    connection: duckdb.DuckDBPyConnection, reader: LakeReader, event: EventType, cut: Mapping[int, int] | None = None
) -> dict[str, int]:
    """CREATE verdict_<event> from the lake; rows by verdict. cut: partition -> next offset not included, None takes all.

    Raises: Fatal if there is no table, or a record lies there twice.
    """
    load_raw(connection, reader, event, cut)
    raw = quoted("raw_" + event.name)
    connection.execute(verdicts_sql(event))
    connection.execute(f"drop table {raw}")
    counts = connection.execute(f"select verdict, count(*) from {quoted('verdict_' + event.name)} group by 1 order by 1")
    return dict(counts.fetchall())


def load_raw(
    connection: duckdb.DuckDBPyConnection, reader: LakeReader, event: EventType, cut: Mapping[int, int] | None,
    order: str = "",
) -> None:  # fmt: skip
    """CREATE raw_<event>: columns in the plan's types; a field the table does not know yet is null.

    order: columns to sort the table by, so that a range of them is read without the rest.

    Raises: Fatal if there is no table, or a record lies there twice.
    """
    wanted = ["part", "off", "append_ms", "decodable", *(f.name for f in event.fields)]
    source, schema = _incoming(connection, reader, event.topic, wanted)
    kinds = {f.name: _sql_type(f) for f in event.fields} | {"part": "integer", "decodable": "boolean"}
    columns = ", ".join(f"{_place(schema, c)}::{kinds.get(c, 'bigint')} as {quoted(c)}" for c in wanted)
    where = "" if cut is None else f" where {_under(cut.items())}"
    sorting = f" order by {order}" if order else ""
    raw = quoted("raw_" + event.name)
    connection.execute(f"create or replace table {raw} as select {columns} from {source}{where}{sorting}")
    connection.unregister("incoming")
    twice = connection.execute(f"select part, off from {raw} group by part, off having count(*) > 1 limit 1").fetchone()
    if twice is not None:
        raise Fatal(f"the lake holds {event.topic}-{twice[0]} offset {twice[1]} twice")


def _incoming(
    connection: duckdb.DuckDBPyConnection, reader: LakeReader, topic: str, wanted: list[str]
) -> tuple[str, pa.Schema]:  # fmt: skip
    """What to select from, as `incoming`, and its columns.

    Of a whole table DuckDB reads the files itself: within its memory limit, which rows that come through Arrow are not.
    """
    if reader.whole:
        files, schema = reader.files(topic)
        if files:
            listed = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
            return f"read_parquet([{listed}], union_by_name = true) as incoming", schema
    batches = reader.batches(topic, wanted)
    connection.register("incoming", batches)
    return "incoming", batches.schema


def _sql_type(field: Field) -> str:
    if field.item is not None:
        return _SQL_TYPES.get(field.item, "bigint") + "[]"
    return _SQL_TYPES.get(field.type, "bigint")


def _place(schema: pa.Schema, path: str) -> str:
    """Where a field lies in the table's rows: a nested record's in its struct; null if the table has none yet."""
    return ".".join(["incoming", *map(quoted, path.split("."))]) if has_path(schema, path) else "null"


def _under(cut: Iterable[tuple[int, int]]) -> str:
    return " or ".join(f"(part = {int(p)} and off < {int(n)})" for p, n in cut) or "false"
