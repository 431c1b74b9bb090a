"""The flights source against hand-made raw files that hold every trap of the real ones.

Expected times are computed with the standard library's zoneinfo, independently of Polars.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pipelines.flights import source

from support.flights_files import NEW_YORK, flight, folder, weather, year

DAY_MS = 86_400_000


def ms(zone: str, *when: int) -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone)).timestamp() * 1000)  # type: ignore[arg-type, misc]


def one(tmp_path: Path, row: str) -> dict[str, dict[str, object]]:
    streams = source.event_streams(folder(tmp_path, [row], [weather("2013-01-01T06:00:00Z")]))
    return {name: stream.frame.row(0, named=True) for name, stream in streams.items()}


def test_a_request_stands_two_hours_before_the_local_scheduled_departure(tmp_path: Path) -> None:
    row = one(tmp_path, flight("2013-07-04", 930, 1240, (5, -3), 7))["scheduled"]
    assert row["sched_dep"] == ms(NEW_YORK, 2013, 7, 4, 9, 30)
    assert row["requested_at"] == ms(NEW_YORK, 2013, 7, 4, 7, 30)
    assert (row["flight_id"], row["hour"], row["distance"]) == ("2013-07-04.UA.7.EWR", 9, 900)


@pytest.mark.parametrize(
    ("day", "sched", "arrives", "dest", "expected"),
    [
        ("2013-01-15", 900, 1220, "LAX", ("America/Los_Angeles", 2013, 1, 15, 12, 20)),
        ("2013-07-15", 2100, 32, "LAX", ("America/Los_Angeles", 2013, 7, 16, 0, 32)),  # lands on the next day
        ("2013-01-15", 900, 1400, "SJU", ("America/Puerto_Rico", 2013, 1, 15, 14, 0)),  # no zone in the table
        ("2013-07-15", 900, 1300, "STT", ("America/St_Thomas", 2013, 7, 15, 13, 0)),
        ("2013-03-09", 2330, 430, "SJU", ("America/Puerto_Rico", 2013, 3, 10, 4, 30)),
        ("2013-03-09", 2200, 305, "MIA", ("America/New_York", 2013, 3, 10, 3, 5)),  # the clocks change in flight
        ("2013-07-15", 600, 800, "PHX", ("America/Phoenix", 2013, 7, 15, 8, 0)),
        ("2013-05-15", 2200, 2400, "MIA", ("America/New_York", 2013, 5, 16, 0, 0)),
    ],
)
def test_arrivals_use_the_destinations_zone_and_day(
    tmp_path: Path, day: str, sched: int, arrives: int, dest: str, expected: tuple[str, int, int, int, int, int]
) -> None:
    rows = one(tmp_path, flight(day, sched, arrives, (0, 25), 7, dest))
    zone, *when = expected
    assert rows["scheduled"]["sched_arr"] == ms(zone, *when)
    assert rows["arrivals"]["arrived_at"] == ms(zone, *when) + 25 * 60_000


def test_delays_carry_events_over_midnight(tmp_path: Path) -> None:
    rows = one(tmp_path, flight("2013-04-02", 2350, 240, (95, 80), 7))
    assert rows["departures"]["departed_at"] == ms(NEW_YORK, 2013, 4, 3, 1, 25)
    assert rows["arrivals"]["arrived_at"] == ms(NEW_YORK, 2013, 4, 3, 4, 0)
    assert rows["departures"]["outcome"] == "departed"


def test_a_cancelled_flight_is_an_outcome_with_no_delay_never_zero(tmp_path: Path) -> None:
    rows = one(tmp_path, flight("2013-04-02", 900, 1200, (None, None), 7))
    left, arrived = rows["departures"], rows["arrivals"]
    assert (left["outcome"], left["dep_delay"], left["departed_at"]) == ("cancelled", None, ms(NEW_YORK, 2013, 4, 2, 9))
    assert (arrived["outcome"], arrived["arr_delay"], arrived["arrived_at"]) == (
        "cancelled",
        None,
        ms(NEW_YORK, 2013, 4, 2, 12),
    )


def test_a_diverted_flight_departed_and_is_known_after_the_declared_bound(tmp_path: Path) -> None:
    rows = one(tmp_path, flight("2013-04-02", 900, 1200, (4, None), 7))
    assert (rows["departures"]["outcome"], rows["departures"]["dep_delay"]) == ("departed", 4)
    assert (rows["arrivals"]["outcome"], rows["arrivals"]["arr_delay"]) == ("diverted", None)
    assert rows["arrivals"]["arrived_at"] == ms(NEW_YORK, 2013, 4, 2, 12) + source.DIVERTED_AFTER_MS


def test_weather_is_utc_with_decimals_no_finer_than_declared_and_nulls(tmp_path: Path) -> None:
    row = one(tmp_path, flight("2013-04-02", 900, 1200, (4, 4), 7))["weather"]
    assert row["observed_at"] == ms("UTC", 2013, 1, 1, 6)
    assert (row["temp"], row["wind_speed"], row["pressure"], row["wind_gust"]) == (39.02, 10.36, 1012.3, None)
    assert row["observation_id"] == "EWR.2013-01-01T06Z"
    cells = source.event_streams(tmp_path)["weather"].csv(0, source.utc_ms(2013, 2, 1)).decode().splitlines()[1]
    assert cells == "EWR.2013-01-01T06Z,EWR,1357020000000,39.02,26.06,59.37,10.36,,0.0,1012.3,10.0,270"


def test_a_destination_without_a_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no time zone for destinations"):
        one(tmp_path, flight("2013-04-02", 900, 1200, (4, 4), 7, "NUL"))


def test_two_legs_with_one_identity_are_refused(tmp_path: Path) -> None:
    rows = [flight("2013-04-02", sched, 1800, (4, 4), 7) for sched in (900, 1500)]
    with pytest.raises(ValueError, match="not unique"):
        source.event_streams(folder(tmp_path, rows, [weather("2013-01-01T06:00:00Z")]))


def local(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, ZoneInfo(NEW_YORK))


def test_the_null_run_moves_whole_days_together_and_keeps_the_time_of_day(tmp_path: Path) -> None:
    """Weather tells where each day landed; every flight must have landed there too."""
    data = year(tmp_path)
    real, null = source.event_streams(data), source.event_streams(data, permute_days_seed=3)
    was, now = (
        {(row["temp"], local(row["observed_at"]).hour): row for row in s["weather"].frame.to_dicts()} for s in (real, null)
    )
    assert was.keys() == now.keys()  # a temperature names its original day, so the time of day was kept
    homes: dict[date, set[date]] = {}
    for key, row in was.items():
        homes.setdefault(local(row["observed_at"]).date(), set()).add(local(now[key]["observed_at"]).date())
    assert all(len(places) == 1 for places in homes.values())
    moved = {day: next(iter(places)) for day, places in homes.items()}
    assert sorted(moved) == sorted(moved.values())
    assert sum(day != place for day, place in moved.items()) > 40
    assert all(moved[day] == day for day in (date(2013, 3, 10), date(2013, 11, 3)))

    expected = sorted(
        (moved[local(row["sched_dep"]).date()].isoformat(), row["flight"], local(row["sched_dep"]).time())
        for row in real["scheduled"].frame.to_dicts()
    )
    got = sorted(
        (row["flight_id"][:10], row["flight"], local(row["sched_dep"]).time()) for row in null["scheduled"].frame.to_dicts()
    )
    assert got == expected


def test_in_the_null_run_all_events_of_a_flight_keep_their_distances(tmp_path: Path) -> None:
    data = year(tmp_path)

    def gaps(streams: dict[str, Any]) -> list[tuple[object, ...]]:
        joined = streams["scheduled"].frame.join(streams["departures"].frame, on="flight_id")
        joined = joined.join(streams["arrivals"].frame, on="flight_id", suffix="_arr")
        return sorted(
            (row["flight"], row["outcome_arr"], row["dep_delay"] or 0, *(row[name] - row["sched_dep"] for name in TIMES))
            for row in joined.to_dicts()
        )

    assert gaps(source.event_streams(data)) == gaps(source.event_streams(data, permute_days_seed=11))


TIMES = ("requested_at", "sched_arr", "departed_at", "arrived_at")


def test_the_same_seed_gives_the_same_year_and_another_seed_another(tmp_path: Path) -> None:
    data = year(tmp_path)
    first, again, other = (source.event_streams(data, permute_days_seed=seed)["departures"].frame for seed in (5, 5, 6))
    assert first.equals(again)
    assert not first.equals(other)


def test_slices_are_half_open_sorted_and_serialise(tmp_path: Path) -> None:
    stream = source.event_streams(year(tmp_path))["departures"]
    low, high = source.utc_ms(2013, 3, 5), source.utc_ms(2013, 3, 7)
    naive = [row for row in stream.frame.to_dicts() if low <= row["departed_at"] < high]
    assert 0 < len(naive) < stream.frame.height
    assert stream.rows(low, high) == naive
    assert [json.loads(line) for line in stream.json_lines(low, high).splitlines()] == naive
    assert stream.json_lines(low, low) == b""
    assert len(stream.csv(low, high).splitlines()) == len(naive) + 1
    assert stream.times.tolist() == sorted(stream.times.tolist())
    edge = naive[-1]["departed_at"]
    assert all(row["departed_at"] < edge for row in stream.rows(low, edge))


def test_steps_deal_each_event_out_exactly_once(tmp_path: Path) -> None:
    streams = source.event_streams(year(tmp_path))
    low, high = source.utc_ms(2013, 3, 1), source.utc_ms(2013, 12, 2)
    dealt = dict.fromkeys(streams, 0)
    for end, parts in source.steps(streams, low, high, 5 * DAY_MS):
        for name, part in parts.items():
            dealt[name] += part.height
            assert (part[source.TIME_FIELDS[name]] < end).all()
    inside = {name: int(((stream.times >= low) & (stream.times < high)).sum()) for name, stream in streams.items()}
    assert dealt == inside
