"""The frozen zone table: what tzdata said when it was frozen, applied alike by three engines at every transition."""

from __future__ import annotations

import datetime as dt
import random
from importlib.resources import files
from zoneinfo import ZoneInfo

import pytest

from headrace.plan.expression_functions import zones
from headrace.plan.expressions import parse
from unit.plan.engines import FIELDS, ROW, assert_engines_agree

AWKWARD = ["America/New_York", "Europe/Dublin", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu", "Pacific/Apia",
           "America/Vancouver", "America/Tijuana", "Asia/Gaza", "Africa/Monrovia", "UTC", "Etc/GMT+12", "EST5EDT"]  # fmt: skip


def test_the_table_is_that_of_the_installed_zone_database() -> None:
    """Goal: an upgrade of tzdata is noticed. A new issue is frozen by infra/zones/freeze.py, and where it moves a value of
    a live pipeline, with a new engine-semantics version."""
    installed = files("tzdata").joinpath("zoneinfo", "tzdata.zi").read_text().split(maxsplit=3)[2]
    assert zones.issue() == installed
    assert zones.names() == sorted(files("tzdata").joinpath("zones").read_text().split())
    rng = random.Random(5)
    for name in zones.names():
        with files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
            reference = ZoneInfo.from_file(file)
        known = zones.zone(name)
        near = [edge + step for edge in rng.sample(known.transitions, min(4, len(known.transitions))) for step in (-1000, 0)]
        for time_ms in [*near, *(rng.randrange(zones.END_MS) // 1000 * 1000 for _ in range(20))]:
            offset = dt.datetime.fromtimestamp(time_ms / 1000, reference).utcoffset()
            assert offset is not None
            assert known.offset_ms(time_ms) == offset.total_seconds() * 1000, (name, time_ms)


@pytest.mark.parametrize("name", AWKWARD)
def test_the_engines_agree_before_and_after_every_transition(name: str) -> None:
    """Daylight saving begins and ends, countries skip a day or change sides: local hour, day and UTC offset."""
    known = zones.zone(name)
    edges = [*known.transitions, zones.FIRST_MS, zones.END_MS]
    given = [{**ROW, "t": edge + step, "z": edge} for edge in edges for step in (-1, 0, 1, 3_600_000)] + [{**ROW, "t": None}]
    for text in (
        f"epoch_ms(t at time zone '{name}') - epoch_ms(t)",
        f"hour(t at time zone '{name}')",
        f"date_diff('day', t at time zone '{name}', z at time zone '{name}')",
        f"date_trunc('day', (t + 1 - 1) at time zone '{name}')",
    ):
        assert_engines_agree(parse(text, FIELDS), given)


@pytest.mark.parametrize(
    ("instant", "hour"),
    [
        ("2013-03-10 06:59:59.999", 1),
        ("2013-03-10 07:00:00", 3),  # no clock shows two
        ("2013-11-03 05:30:00", 1),
        ("2013-11-03 06:30:00", 1),  # half past one comes twice
        ("1969-12-31 23:59:59", None),
        ("2100-01-01 00:00:00", None),
    ],
)
def test_the_hour_in_new_york_is_what_its_clocks_show(instant: str, hour: int | None) -> None:
    text = f"hour(timestamp '{instant}' at time zone 'America/New_York')"
    assert parse(text, FIELDS).compile()(ROW) == hour
