"""What a turned world and a cut log are made of, without a stack."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from drill.alerts.past import Copies, turned
from drill.alerts.rig import HOUR_MS, Asker


@pytest.mark.parametrize(
    ("stream", "row", "becomes"),
    [
        ("departures", {"flight_id": "a", "dep_delay": 5}, {"flight_id": "a", "dep_delay": 65}),
        ("departures", {"flight_id": "a", "dep_delay": None}, {"flight_id": "a", "dep_delay": None}),
        ("departures", {"flight_id": "a", "dep_delay": 1_399}, {"flight_id": "a", "dep_delay": 1_400}),
        ("arrivals", {"flight_id": "a", "arr_delay": 40}, {"flight_id": "a", "arr_delay": -10}),
        ("arrivals", {"flight_id": "a", "arr_delay": -10}, {"flight_id": "a", "arr_delay": 40}),
    ],
)
def test_in_the_turned_world_departures_are_later_and_late_arrivals_early(stream: str, row: object, becomes: object) -> None:
    assert orjson.loads(turned(stream, orjson.dumps(row))) == becomes


def test_other_streams_do_not_turn() -> None:
    assert turned("scheduled", b'{"dep_delay": 1}') == b'{"dep_delay": 1}'


def test_copies_of_the_chain_put_back_what_was_taken_and_nothing_else(tmp_path: Path) -> None:
    log, heads = tmp_path / "topic-0", tmp_path / "heads.jsonl"
    log.mkdir()
    (log / "0.log").write_text("older")
    heads.write_text("1\n")
    older = Copies(tmp_path / "aside", log, heads)
    older.take()
    (log / "0.log").write_text("older and newer")
    (log / "1.log").write_text("a segment more")
    heads.write_text("1\n2\n")
    older.put()
    assert {file.name: file.read_text() for file in log.iterdir()} == {"0.log": "older"}
    assert heads.read_text() == "1\n"


def test_who_asks_asks_of_the_aircraft_that_departed_last_before_the_time_set() -> None:
    flights = [{"t": 5, "carrier": "AA", "tail": "N1", "origin": "EWR", "dest": "ORD", "dep_delay": 1}]
    flights += [{"t": 9, "carrier": "UA", "tail": "N2", "origin": "JFK", "dest": "SFO", "dep_delay": 2}]
    flights += [{"t": 12, "carrier": "B6", "tail": None, "origin": "JFK", "dest": "BOS", "dep_delay": 3}]
    asker = Asker("http://127.0.0.1:9", lambda low, high: [row for row in flights if low <= row["t"] * HOUR_MS < high])
    asker.like({"tail": "N0", "distance": 700})
    asker.t_ms = 10 * HOUR_MS
    assert asker._row == {"distance": 700, "carrier": "UA", "tail": "N2", "origin": "JFK", "dest": "SFO"}
    asker.t_ms = 13 * HOUR_MS
    assert asker._row["tail"] == "N2", "nobody knows the aircraft of the last one"
