"""Hand-made raw files of the flights data set, in the package's layout: a few legs instead of 336,776."""

from __future__ import annotations

import zipfile
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

NEW_YORK = "America/New_York"
FLIGHT_HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,"
    "air_time,distance,hour,minute,time_hour"
)
AIRPORTS = """faa,name,lat,lon,alt,tz,dst,tzone
LAX,Los Angeles,33,-118,1,-8,A,America/Los_Angeles
MIA,Miami,25,-80,1,-5,A,America/New_York
PHX,Phoenix,33,-112,1,-7,N,America/Phoenix
NUL,No zone,0,0,0,0,U,NA
"""
WEATHER_HEADER = "origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour"


def flight(day: str, sched: int, arrives: int, delays: tuple[int | None, int | None], number: int, dest: str = "MIA") -> str:
    year, month, dom = (int(part) for part in day.split("-"))
    dep, arr = ("NA" if delay is None else str(delay) for delay in delays)
    left = "NA" if delays[0] is None else str(sched)
    return f"{year},{month},{dom},{left},{sched},{dep},NA,{arrives},{arr},UA,{number},N1,EWR,{dest},NA,900,{sched // 100},0,x"


def weather(hour_utc: str, temp: str = "39.02", gust: str = "NA") -> str:
    return f"EWR,2013,1,1,1,{temp},26.06,59.37,270,10.357019999999999,{gust},0,1012.3,10,{hour_utc}"


def folder(tmp_path: Path, flights: list[str], observations: list[str]) -> Path:
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "\n".join([FLIGHT_HEADER, *flights]) + "\n")
    (tmp_path / "airports.csv").write_text(AIRPORTS)
    (tmp_path / "weather.csv").write_text("\n".join([WEATHER_HEADER, *observations]) + "\n")
    return tmp_path


def year(tmp_path: Path) -> Path:
    """Every day of March and November: one early flight, one late, and hourly weather."""
    flights, observations = [], []
    for first, days in ((date(2013, 3, 1), 31), (date(2013, 11, 1), 30)):
        for offset in range(days):
            day = first + timedelta(days=offset)
            flights += [flight(day.isoformat(), 600, 900, (offset, offset), 1000 + offset)]
            flights += [flight(day.isoformat(), 2359, 300, (-5, None), 2000 + offset)]
            for hour in range(0, 24, 6):
                at = datetime(day.year, day.month, day.day, hour, tzinfo=ZoneInfo(NEW_YORK)).astimezone(ZoneInfo("UTC"))
                observations.append(weather(at.strftime("%Y-%m-%dT%H:%M:%SZ"), temp=f"{offset}.{day.month:02d}"))
    return folder(tmp_path, flights, observations)
