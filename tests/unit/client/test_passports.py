"""The newest decisions of an archive, to pick one from."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from headrace.client.passports import LATELY_MS, newest
from headrace.contracts.catalogue import predictions_topic

NOW = 10 * LATELY_MS


def a_row(number: int, append_ms: int, decodable: bool = True) -> dict[str, object]:
    return {
        "request_id": f"r{number}", "model": "m", "decision": number % 2 == 0, "decision_source": "MODEL", "arm": "champion",
        "t_ms": number, "received_ms": append_ms - 9, "decided_ms": append_ms, "append_ms": append_ms, "decodable": decodable,
    }  # fmt: skip


def archive(lake: Path, *files: list[dict[str, object]]) -> None:
    for rows in files:
        write_deltalake(str(lake / predictions_topic("p")), pa.Table.from_pylist(rows), mode="append")


def test_the_newest_come_first_and_no_more_than_asked_for(tmp_path: Path) -> None:
    archive(tmp_path, [a_row(1, NOW), a_row(2, NOW - 5)], [a_row(3, NOW - 3), a_row(4, NOW - 1)])
    assert [row["request_id"] for row in newest(tmp_path, "p", 3)] == ["r1", "r4", "r3"]


def test_only_the_last_minutes_are_read_and_what_could_not_be_read_is_no_decision(tmp_path: Path) -> None:
    archive(tmp_path, [a_row(1, NOW - LATELY_MS - 1)], [a_row(2, NOW), a_row(3, NOW, decodable=False)])
    assert [row["request_id"] for row in newest(tmp_path, "p", 9)] == ["r2"]


def test_without_an_archive_there_are_none(tmp_path: Path) -> None:
    assert newest(tmp_path, "p", 9) == []
