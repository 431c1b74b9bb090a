"""Python operators and methods build the same canonical text as SQL; mistakes are told at the user's line."""

from __future__ import annotations

import datetime as dt
import inspect
import textwrap
from decimal import Decimal as Number
from pathlib import Path

import pytest

from headrace.declare import (
    Annotated,
    Decimal,
    DeclarationError,
    Event,
    Int,
    Label,
    Long,
    Nullable,
    Range,
    Scale,
    Text,
    Timestamp,
    compile,
    greatest,
    least,
    load,
)
from headrace.declare.computing import Computing
from headrace.declare.fields import Expr, Flag
from headrace.plan.expressions import parse


class Trip(Event, topic="trips", key="id", time="at", lateness="1h"):
    id: Text
    tail: Nullable[Text]
    at: Timestamp
    back: Timestamp
    delay: Annotated[Nullable[Int], Range(-1000, 1000)]
    seats: Annotated[Long, Range(0, 500)]
    fare: Annotated[Decimal, Scale(2), Range(0, 1000)]
    paid: Flag


NEW_YORK = "America/New_York"
PAIRS: list[tuple[Expr, str]] = [
    (Trip.delay > 15, "delay > 15"),
    ((Trip.delay > 15) & ~Trip.paid | Trip.tail.is_null(), "delay > 15 and not paid or tail is null"),
    (Trip.delay + 1 - Trip.seats * 2, "delay + 1 - seats * 2"),
    (100 // Trip.delay, "100 // delay"),
    (100 % Trip.delay, "100 % delay"),
    (-Trip.delay, "-delay"),
    (Trip.fare >= Number("12.5"), "fare >= 12.5"),
    (Trip.fare > Number("-0.50"), "fare > -0.5"),
    (Trip.at > dt.datetime(2013, 6, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2))), "at > timestamp '2013-06-01 00:00:00'"),
    (Trip.at + dt.timedelta(minutes=5), "at + interval '5 minutes'"),
    (Trip.tail.is_not_null(), "tail is not null"),
    (Trip.paid.is_true(), "paid is true"),
    (Trip.tail.is_in("a", "b's"), "tail in ('a', 'b''s')"),
    (Trip.delay.between(-5, 5), "delay between -5 and 5"),
    (Trip.tail.distinct_from(Trip.id), "tail is distinct from id"),
    (Trip.delay.if_null(Trip.seats, 0), "coalesce(delay, seats, 0)"),
    (Trip.delay.null_if(0), "nullif(delay, 0)"),
    ((Trip.delay > 0).then(Trip.delay, 0), "if(delay > 0, delay, 0)"),
    (Trip.delay.abs(), "abs(delay)"),
    (Trip.delay.sign(), "sign(delay)"),
    (Trip.delay.clamp(0, Trip.seats), "clamp(delay, 0, seats)"),
    (Trip.fare.round(1, "half_even"), "round(fare, 1, 'half_even')"),
    (Trip.fare.floor(), "floor(fare, 0)"),
    (Trip.fare.ceil(1), "ceil(fare, 1)"),
    (Trip.fare.trunc(-1), "trunc(fare, -1)"),
    (Trip.fare.divide(Trip.seats, 2, "half_up"), "divide(fare, seats, 2, 'half_up')"),
    (Trip.seats.power(2), "power(seats, 2)"),
    (Trip.seats.gcd(12), "gcd(seats, 12)"),
    ((Trip.delay > 0).to_integer(), "cast(delay > 0 as bigint)"),
    (Trip.seats.bit_and(1), "bit_and(seats, 1)"),
    (Trip.seats.bit_or(1), "bit_or(seats, 1)"),
    (Trip.seats.bit_xor(1), "bit_xor(seats, 1)"),
    (Trip.seats.bit_not(), "bit_not(seats)"),
    (Trip.seats.bits_set(), "bit_count(seats)"),
    (Trip.seats.shift_left(3), "shift_left(seats, 3)"),
    (Trip.seats.shift_right(3), "shift_right(seats, 3)"),
    (Trip.delay.bucket(-5, 0, 15), "bucket(delay, -5, 0, 15)"),
    (Trip.fare.width_bucket(0, 100, 10), "width_bucket(fare, 0, 100, 10)"),
    (Trip.tail.index_in("UA", "AA"), "index_in(tail, 'UA', 'AA')"),
    (Trip.tail.hash_bucket(64), "hash_bucket(tail, 64)"),
    (Trip.tail.length() > Trip.tail.octet_length(), "length(tail) > octet_length(tail)"),
    (Trip.tail.lower().upper(), "upper(lower(tail))"),
    (Trip.tail.trim().ltrim("0").rtrim("x"), "rtrim(ltrim(trim(tail, ' '), '0'), 'x')"),
    (Trip.tail.substring(2), "substring(tail, 2)"),
    (Trip.tail.substring(2, 3), "substring(tail, 2, 3)"),
    (Trip.tail.left(1).join(Trip.tail.right(2)), "left(tail, 1) || right(tail, 2)"),
    (Trip.tail.starts_with("N") & Trip.tail.ends_with(Trip.id), "starts_with(tail, 'N') and ends_with(tail, id)"),
    (Trip.tail.contains("1"), "contains(tail, '1')"),
    (Trip.tail.strpos("1"), "strpos(tail, '1')"),
    (Trip.tail.replace("-", ""), "replace(tail, '-', '')"),
    (Trip.id.split_part(".", 2), "split_part(id, '.', 2)"),
    (Trip.tail.like("N%"), "tail like 'N%'"),
    (Trip.tail.matches("^N[0-9]+$"), "regexp_matches(tail, '^N[0-9]+$')"),
    (Trip.tail.concat("-", Trip.id), "concat(tail, '-', id)"),
    (Trip.id.parse_integer(), "try_cast(id as bigint)"),
    (Trip.id.parse_decimal(8, 2), "try_cast(id as decimal(8, 2))"),
    (Trip.seats.to_text(), "cast(seats as varchar)"),
    (Trip.at.at_zone(NEW_YORK) < Trip.back.at_zone("UTC"), "(at at time zone 'America/New_York') < (back at time zone 'UTC')"),
    (Trip.at.part("doy"), "extract(doy from at)"),
    (Trip.at.year() * 100 + Trip.at.month(), "year(at) * 100 + month(at)"),
    (Trip.at.quarter() + Trip.at.week() + Trip.at.day() + Trip.at.minute(), "quarter(at) + week(at) + day(at) + minute(at)"),
    (Trip.at.hour(zone=NEW_YORK), "extract(hour from at at time zone 'America/New_York')"),
    ((Trip.at + 1).dow(NEW_YORK), "extract(dow from (at + 1) at time zone 'America/New_York')"),
    (Trip.at.truncate("day"), "date_trunc('day', at)"),
    (Trip.at.days_until(Trip.back, zone=NEW_YORK),
     "date_diff('day', at at time zone 'America/New_York', back at time zone 'America/New_York')"),
    (Trip.at.days_in_month(), "days_in_month(at)"),
    (Trip.at.epoch_ms(), "epoch_ms(at)"),
    (Trip.seats.to_timestamp_ms(), "timestamp_ms(seats)"),
    (Trip.seats.to_timestamp_s(), "timestamp_s(seats)"),
    (least(Trip.delay, Trip.seats) + greatest(Trip.delay, 0), "least(delay, seats) + greatest(delay, 0)"),
]  # fmt: skip
FIELDS = {field.name: field for field in Trip.__law__.fields}


@pytest.mark.parametrize(("built", "text"), PAIRS, ids=[text for _, text in PAIRS])
def test_python_builds_the_canonical_text_of_the_sql(built: Expr, text: str) -> None:
    assert parse(built.text, FIELDS).canonical == parse(text, FIELDS).canonical


def test_every_method_stands_in_a_pair() -> None:
    """A method that nobody tried could write text that does not parse."""
    source = inspect.getsource(inspect.getmodule(test_every_method_stands_in_a_pair))  # type: ignore[arg-type]
    methods = {name for name in vars(Computing) if not name.startswith("_")} - {"operand", "derived"}
    assert {name for name in methods if f".{name}(" not in source} == set()


@pytest.mark.parametrize(
    ("mistake", "detail", "hint"),
    [
        (lambda: Trip.fare > 0.5, "0.5 in an expression", 'decimal.Decimal("0.5")'),
        (lambda: Trip.tail == None, "None in an expression", ".is_null()"),  # noqa: E711
        (lambda: Trip.at > dt.datetime(2013, 6, 1), "in an expression", "tzinfo=UTC"),
        (lambda: "N" in Trip.tail, "`in` over `tail`", ".contains(...)"),  # type: ignore[operator]
        (lambda: 0 < Trip.delay < 5, "no truth value", "&"),
        (lambda: Trip.delay > object(), "in an expression", "integers, text"),
    ],
)
def test_what_python_cannot_say_is_refused_at_the_line(mistake: object, detail: str, hint: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        mistake()  # type: ignore[operator]
    complaint = caught.value.complaints[0]
    assert detail in complaint.detail
    assert hint in complaint.hint
    assert complaint.where.file == __file__


def test_labels_and_requests_take_conditions_of_their_event() -> None:
    class Other(Event, topic="others", key="id", time="at", lateness="1h"):
        id: Text
        at: Timestamp

    label = Label(Trip, Trip.delay > 15, join="id", mature="1d", exclude=Trip.tail.is_null())
    assert isinstance(label.where, Expr)
    with pytest.raises(DeclarationError, match="a condition over Other on rows of Trip"):
        Label(Trip, Other.id.length() > 3, join="id", mature="1d")


def test_a_mistake_inside_an_expression_names_line_character_and_remedy(tmp_path: Path) -> None:
    text = """
    from __future__ import annotations
    from headrace.declare import *

    class Paid(Event, topic="payments", key="id", time="at", lateness="1h"):
        id: Text
        at: Timestamp
        cents: Annotated[Long, Range(0, 1000)]

    @feature_set(entity="id", ttl="3d")
    class Load:
        late = Paid.count(where="cents > 1 and hour(at at time zone 'America/New_Yrok') > 20").over("1h", hop="5m")
        odd = Paid.cents.round(-1, "half_up").sum(
            where=Paid.cents.lower() == "x",
        ).over("1h", hop="5m")

    shop = Pipeline("shop", owner="ops", events=[Paid], feature_sets=[Load])
    """
    file = tmp_path / "pipeline.py"
    file.write_text(textwrap.dedent(text))
    with pytest.raises(DeclarationError) as caught:
        compile(load(file))
    told = [(complaint.where.line, complaint.detail, complaint.hint) for complaint in caught.value.complaints]
    late = "cents > 1 and hour(at at time zone 'America/New_Yrok') > 20"
    assert told[0] == (
        12,
        f"unknown time zone 'America/New_Yrok' at character 36 of `{late}`",
        "did you mean 'America/New_York'?",
    )
    assert told[1] == (13, "integer where text is needed at character 7 of `LOWER(cents) = 'x'`", "write lower(s)")
