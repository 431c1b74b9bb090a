"""The second engine where there is no Spark: what it refuses, and that nothing of the language lacks a lowering."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from headrace.contracts.errors import Fatal
from headrace.plan.expression_functions import FUNCTIONS
from headrace.plan.expression_nodes import BOOLEAN, Node, ValueType
from headrace.plan.expressions import Expression, parse
from headrace.plan.hashes import to_json
from headrace.plan.ir import Field
from headrace.plan.spark_expressions import ESCAPES, NotOnSpark, sql_of
from headrace.plan.spark_expressions import FUNCTIONS as LOWERED
from support.law_worlds import make_world
from svc_features import dataset_job
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.spark import sql_schema
from unit.svc_features.test_datasets import EVERYTHING, whole
from unit.svc_features.worlds import MODEL, PLAN, played

FIELDS = {
    "a": Field("a", "long", minimum=-50, maximum=50),
    "s": Field("s", "string"),
    "l": Field("l", "array", item="long", items_max=9, minimum=-50, maximum=50),
    "n.c": Field("n.c", "string"),
    "n.w": Field("n.w", "array", item="string", items_max=6),
}


def test_every_function_of_the_white_list_has_a_lowering_for_spark() -> None:
    assert LOWERED.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("s = 'it''s \\ `b`'", r"'it\'s \\ `b`'"),  # a backslash escapes in Spark
        ("regexp_matches(s, 'a$|b')", r"'(?d)(?:a\\z|b)'"),  # `$` would stand before a last newline too
        ("s like 'a\\%'", "ESCAPE '!'"),
        ("-a - -1 > 0", "(- CAST(`a` AS BIGINT))"),  # never two minuses in a row
        ("a // 2", "div nullif(CAST(2 AS BIGINT), 0)"),
        ("n.c = 'x'", "`n.c`"),  # one column, not a part of one
        ("each(n.w)", "`each(n.w)`"),
        ("l is null", "CAST(`l` AS ARRAY<BIGINT>)"),  # of ints in one table, of longs in another
        ("array_length(l)", "array_size("),  # size(NULL) may be -1
        ("array_contains([1, -7], a)", "array(CAST(1 AS BIGINT), CAST(-7 AS BIGINT))"),
    ],
)
def test_what_spark_would_read_otherwise_is_written_otherwise(text: str, part: str) -> None:
    assert part in sql_of(parse(text, FIELDS))


def test_a_pattern_that_leaves_no_escape_character_is_refused_and_says_what_to_set() -> None:
    with pytest.raises(NotOnSpark, match=r"LIKE pattern with all of .* set HEADRACE_OFFLINE_ENGINE=duckdb"):
        sql_of(parse(f"s like '{ESCAPES}%'", FIELDS))


@dataclass(frozen=True)
class Unknown(Node):
    type: ValueType = BOOLEAN

    @property
    def canonical(self) -> str:
        return "SOMETHING(new)"


def test_a_node_without_a_lowering_is_refused_by_name_and_never_passed_through() -> None:
    with pytest.raises(NotOnSpark, match=r"SOMETHING\(new\) has no lowering for Spark; set HEADRACE_OFFLINE_ENGINE=duckdb"):
        sql_of(Expression(Unknown()))


def test_a_column_spark_cannot_read_is_refused() -> None:
    assert sql_schema(pa.schema([("a", pa.int64()), ("b", pa.list_(pa.struct([("c", pa.string())])))])) == (
        "`a` BIGINT, `b` ARRAY<STRUCT<`c`: STRING>>"
    )
    with pytest.raises(Fatal, match="Spark reads no duration"):
        sql_schema(pa.schema([("a", pa.duration("ms"))]))


def test_a_job_for_spark_where_it_is_not_installed_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = played(make_world(4, 60), random.Random(4), asks=20, decided=0.0)
    rig.archived(tmp_path / "lake")
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    window = whole(rig)
    job = {
        "model": MODEL.name, "cut": EVERYTHING, "lake": str(tmp_path / "lake"), "threads": 1, "memory_mb": 500,
        "window": {"from_ms": window.from_ms, "until_ms": window.until_ms, "mature_until_ms": window.mature_until_ms},
        "engine": "spark", "spark": {"master": "local[1]", "settings": {}, "scratch": None},
    }  # fmt: skip
    (tmp_path / "plan.json").write_bytes(to_json(PLAN))
    (tmp_path / "job.json").write_bytes(orjson.dumps(job, option=orjson.OPT_NON_STR_KEYS))
    dataset_job.run(tmp_path)
    error = orjson.loads((tmp_path / "result.json").read_bytes())["error"]
    assert "not installed" in error
    assert "make env-spark" in error


def test_a_table_whose_rows_are_not_simply_those_of_its_files_is_not_read_as_files(tmp_path: Path) -> None:
    rig = played(make_world(4, 60), random.Random(4), asks=20, decided=0.0)
    rig.archived(tmp_path)
    files, schema = LakeReader(tmp_path).files(PLAN.events[0].topic)
    assert files
    assert {"part", "off"} <= set(schema.names)
    with pytest.raises(Fatal, match="no table of nothing"):
        LakeReader(tmp_path).files("nothing")
