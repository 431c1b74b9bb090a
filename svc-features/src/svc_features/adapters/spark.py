"""Apache Spark as an outside system: one session whose settings make its SQL mean what ours means.

pyspark is installed by who wants it (`infra/requirements/spark.lock`); nothing else imports it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import pyarrow as pa

from headrace.contracts.errors import Fatal

# pyspark's own classes, which are not there to be named where nobody installed it.
DataFrame: TypeAlias = Any
SparkSession: TypeAlias = Any

# What the generated SQL relies on; nobody may set them otherwise.
LAW = {
    "spark.sql.ansi.enabled": "true",  # an overflow fails instead of wrapping
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    "spark.sql.ansi.doubleQuotedIdentifiers": "true",  # as in standard SQL, and in DuckDB
    "spark.sql.variable.substitute": "false",  # or ${...} in a text would be replaced
    "spark.sql.parser.escapedStringLiterals": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "64000",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
QUIET = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
ERROR_CHARACTERS = 1_000  # what follows is Java's stack
WAY_OUT = "install infra/requirements/spark.lock (`make env-spark`), or set HEADRACE_OFFLINE_ENGINE=duckdb"


def lacking() -> str | None:
    """The first package Spark needs that is not installed here; whether Java starts is found out by `session`."""
    return next((name for name in ("pyspark", "pandas") if find_spec(name) is None), None)


@contextmanager
def session(master: str, memory_mb: int, scratch: str, partitions: int, more: Mapping[str, str]) -> Iterator[SparkSession]:
    """A session that ends with the block.

    Args:
        master: `local[2]`, `spark://host:7077`, or what else Spark knows.
        memory_mb: of the driver, and of each executor.
        scratch: folder on this machine for spilled rows.
        partitions: of a shuffle; a task holds one at a time.
        more: settings of the cluster, such as spark.executor.cores; those of `LAW` cannot be changed.

    Raises: Fatal if there is no pyspark or no Java it starts with, or if Spark fails in the block.
    """
    try:
        pyspark, errors, py4j = (import_module(name) for name in ("pyspark.sql", "pyspark.errors", "py4j.protocol"))
        import_module("pandas")  # pyspark asks for it before it runs any function over Arrow
    except ImportError as error:
        raise Fatal(f"the offline engine is spark, but {error.name} is not installed: {WAY_OUT}") from error
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    wanted = {
        "spark.master": master, "spark.app.name": "headrace", "spark.driver.memory": f"{memory_mb}m",
        "spark.executor.memory": f"{memory_mb}m", "spark.local.dir": scratch,
        "spark.sql.shuffle.partitions": str(partitions), "spark.sql.warehouse.dir": os.path.join(scratch, "warehouse"),
    }  # fmt: skip
    if master.startswith("local"):  # nobody else needs to reach the driver
        wanted |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    if "PYTHONPATH" in os.environ:
        wanted["spark.executorEnv.PYTHONPATH"] = os.environ["PYTHONPATH"]
    builder = pyspark.SparkSession.builder
    for name, value in (wanted | QUIET | dict(more) | LAW).items():
        builder = builder.config(name, value)
    try:
        spark = builder.getOrCreate()
    except errors.PySparkRuntimeError as error:
        hint = "a full Java 17 or later is needed (JAVA_HOME says which); the pared one of the local stack lacks a module"
        raise Fatal(f"Spark did not start: {error}; {hint}") from error
    try:
        yield spark
    except (errors.PySparkException, py4j.Py4JError) as error:
        raise Fatal(f"Spark failed: {str(error)[:ERROR_CHARACTERS]}") from error
    finally:
        spark.stop()


_PLAIN = {
    pa.string(): "STRING", pa.large_string(): "STRING", pa.bool_(): "BOOLEAN", pa.int8(): "TINYINT", pa.int16(): "SMALLINT",
    pa.int32(): "INT", pa.int64(): "BIGINT", pa.float32(): "FLOAT", pa.float64(): "DOUBLE", pa.binary(): "BINARY",
}  # fmt: skip


def sql_type(kind: pa.DataType) -> str:
    """Spark's name of an Arrow type of the lake."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"ARRAY<{sql_type(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"STRUCT<{', '.join(f'`{f.name}`: {sql_type(f.type)}' for f in kind)}>"
    if pa.types.is_map(kind):
        return f"MAP<{sql_type(kind.key_type)}, {sql_type(kind.item_type)}>"
    if kind not in _PLAIN:
        raise Fatal(f"Spark reads no {kind}; set HEADRACE_OFFLINE_ENGINE=duckdb")
    return _PLAIN[kind]


def sql_schema(schema: pa.Schema) -> str:
    """Columns with their types, as a schema in SQL."""
    return ", ".join(f"`{f.name}` {sql_type(f.type)}" for f in schema)


def lake_view(spark: SparkSession, name: str, files: list[str], schema: pa.Schema) -> None:
    """CREATE a view of Parquet files; a column a file lacks is null there."""
    if files:
        spark.read.schema(sql_schema(schema)).parquet(*files).createOrReplaceTempView(name)
    else:
        spark.createDataFrame([], sql_schema(schema)).createOrReplaceTempView(name)
