"""Row functions of an expression in Python's spelling; each writes the SQL text of the same name.

`Departed.dep_delay.clamp(0, 120)` is `clamp(dep_delay, 0, 120)`. What each means, in three engines, stands in
plan/EXPRESSIONS.md. Arguments are expressions over the same event or constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from headrace.declare.errors import here, refuse

if TYPE_CHECKING:
    from headrace.declare.fields import Expr

Mode = Literal["half_even", "half_up", "floor", "ceil", "trunc"]
Unit = Literal["second", "minute", "hour", "day", "week", "month", "quarter", "year"]


class Computing:
    """What a row expression can become."""

    event: str
    text: str

    def _wrapped(self) -> str:
        raise NotImplementedError

    def operand(self, other: object) -> str:
        raise NotImplementedError

    def derived(self, text: str, *, atomic: bool = True) -> Expr:
        raise NotImplementedError

    def _call(self, name: str, *arguments: object) -> Expr:
        return self.derived(f"{name}({', '.join([self.text, *map(self.operand, arguments)])})")

    def __contains__(self, value: object) -> bool:
        raise refuse(here(), f"`in` over `{self.text}` has no truth value here", "write .contains(...), or .is_in(...)")

    def __rfloordiv__(self, other: object) -> Expr:
        return self.derived(f"{self.operand(other)} // {self._wrapped()}", atomic=False)

    def __rmod__(self, other: object) -> Expr:
        return self.derived(f"{self.operand(other)} % {self._wrapped()}", atomic=False)

    # --- nulls and choice

    def is_not_null(self) -> Expr:
        return self.derived(f"{self._wrapped()} IS NOT NULL", atomic=False)

    def is_true(self) -> Expr:
        """Whether the condition holds; false, never null, where it is unknown."""
        return self.derived(f"{self._wrapped()} IS TRUE", atomic=False)

    def is_in(self, *values: object) -> Expr:
        """Whether it equals one of the values."""
        return self.derived(f"{self._wrapped()} IN ({', '.join(map(self.operand, values))})", atomic=False)

    def between(self, low: object, high: object) -> Expr:
        """Both ends included."""
        return self.derived(f"{self._wrapped()} BETWEEN {self.operand(low)} AND {self.operand(high)}", atomic=False)

    def distinct_from(self, other: object) -> Expr:
        """A comparison in which null is a value: never null."""
        return self.derived(f"{self._wrapped()} IS DISTINCT FROM {self.operand(other)}", atomic=False)

    def if_null(self, *others: object) -> Expr:
        """The first that is not null."""
        return self._call("COALESCE", *others)

    def null_if(self, value: object) -> Expr:
        return self._call("NULLIF", value)

    def then(self, value: object, otherwise: object) -> Expr:
        """Of a condition: the one value where it holds, else the other."""
        return self._call("IF", value, otherwise)

    # --- numbers

    def abs(self) -> Expr:
        return self._call("ABS")

    def sign(self) -> Expr:
        return self._call("SIGN")

    def clamp(self, low: object, high: object) -> Expr:
        return self._call("CLAMP", low, high)

    def round(self, digits: int, mode: Mode) -> Expr:
        """`half_up` sends ties away from zero."""
        return self._call("ROUND", digits, mode)

    def floor(self, digits: int = 0) -> Expr:
        return self._call("FLOOR", digits)

    def ceil(self, digits: int = 0) -> Expr:
        return self._call("CEIL", digits)

    def trunc(self, digits: int = 0) -> Expr:
        """Towards zero; `truncate` is of times."""
        return self._call("TRUNC", digits)

    def divide(self, divisor: object, digits: int, mode: Mode) -> Expr:
        """A decimal quotient; null where the divisor is 0. `//` floors to an integer."""
        return self._call("DIVIDE", divisor, digits, mode)

    def power(self, exponent: int) -> Expr:
        return self._call("POWER", exponent)

    def gcd(self, other: object) -> Expr:
        return self._call("GCD", other)

    def to_integer(self) -> Expr:
        """Of a condition: 1 for true, 0 for false."""
        return self.derived(f"CAST({self.text} AS BIGINT)")

    def bit_and(self, other: object) -> Expr:
        return self._call("BIT_AND", other)

    def bit_or(self, other: object) -> Expr:
        return self._call("BIT_OR", other)

    def bit_xor(self, other: object) -> Expr:
        return self._call("BIT_XOR", other)

    def bit_not(self) -> Expr:
        return self._call("BIT_NOT")

    def bits_set(self) -> Expr:
        return self._call("BIT_COUNT")

    def shift_left(self, by: int) -> Expr:
        return self._call("SHIFT_LEFT", by)

    def shift_right(self, by: int) -> Expr:
        return self._call("SHIFT_RIGHT", by)

    # --- buckets, vocabularies, hashes

    def bucket(self, *bounds: object) -> Expr:
        """How many of the ascending bounds it has reached."""
        return self._call("BUCKET", *bounds)

    def width_bucket(self, low: object, high: object, count: int) -> Expr:
        return self._call("WIDTH_BUCKET", low, high, count)

    def index_in(self, *vocabulary: object) -> Expr:
        """Place in a frozen vocabulary, -1 where it is not in it."""
        return self._call("INDEX_IN", *vocabulary)

    def hash_bucket(self, count: int) -> Expr:
        """A stable bucket from 0 to count - 1 of a text."""
        return self._call("HASH_BUCKET", count)

    # --- text

    def length(self) -> Expr:
        return self._call("LENGTH")

    def octet_length(self) -> Expr:
        return self._call("OCTET_LENGTH")

    def lower(self) -> Expr:
        return self._call("LOWER")

    def upper(self) -> Expr:
        return self._call("UPPER")

    def trim(self, characters: str = " ") -> Expr:
        return self._call("TRIM", characters)

    def ltrim(self, characters: str = " ") -> Expr:
        return self._call("LTRIM", characters)

    def rtrim(self, characters: str = " ") -> Expr:
        return self._call("RTRIM", characters)

    def substring(self, start: int, length: int | None = None) -> Expr:
        """Code points from start, of which the first is 1."""
        return self._call("SUBSTRING", start) if length is None else self._call("SUBSTRING", start, length)

    def left(self, count: int) -> Expr:
        return self._call("LEFT", count)

    def right(self, count: int) -> Expr:
        return self._call("RIGHT", count)

    def starts_with(self, prefix: object) -> Expr:
        return self._call("STARTS_WITH", prefix)

    def ends_with(self, suffix: object) -> Expr:
        return self._call("ENDS_WITH", suffix)

    def contains(self, part: object) -> Expr:
        return self._call("CONTAINS", part)

    def strpos(self, part: str) -> Expr:
        """Where the part first stands, 1 for the start, 0 if nowhere."""
        return self._call("STRPOS", part)

    def replace(self, old: str, new: str) -> Expr:
        return self._call("REPLACE", old, new)

    def split_part(self, separator: str, number: int) -> Expr:
        return self._call("SPLIT_PART", separator, number)

    def like(self, pattern: str) -> Expr:
        return self.derived(f"{self._wrapped()} LIKE {self.operand(pattern)}", atomic=False)

    def matches(self, pattern: str) -> Expr:
        """Whether the regular expression, of the part the engines share, is found."""
        return self._call("REGEXP_MATCHES", pattern)

    def concat(self, *others: object) -> Expr:
        """All together; a null is ''."""
        return self._call("CONCAT", *others)

    def join(self, other: object) -> Expr:
        """Both together; null where either is null."""
        return self.derived(f"{self._wrapped()} || {self.operand(other)}", atomic=False)

    def parse_integer(self) -> Expr:
        """The integer a text is, else null."""
        return self.derived(f"TRY_CAST({self.text} AS BIGINT)")

    def parse_decimal(self, precision: int, scale: int) -> Expr:
        """The decimal a text is, with at most so many digits, else null."""
        return self.derived(f"TRY_CAST({self.text} AS DECIMAL({precision}, {scale}))")

    def to_text(self) -> Expr:
        return self.derived(f"CAST({self.text} AS VARCHAR)")

    # --- time

    def at_zone(self, zone: str) -> Expr:
        """The local time that clocks of the zone show."""
        return self.derived(f"{self._wrapped()} AT TIME ZONE {self.operand(zone)}", atomic=False)

    def _local(self, zone: str | None) -> str:
        return self.text if zone is None else self.at_zone(zone).text

    def part(self, name: str, zone: str | None = None) -> Expr:
        """Any part that EXTRACT knows, such as "doy" or "minute_of_day"; in UTC without a zone."""
        return self.derived(f"EXTRACT({name} FROM {self._local(zone)})")

    def year(self, zone: str | None = None) -> Expr:
        return self.part("year", zone)

    def quarter(self, zone: str | None = None) -> Expr:
        return self.part("quarter", zone)

    def month(self, zone: str | None = None) -> Expr:
        return self.part("month", zone)

    def week(self, zone: str | None = None) -> Expr:
        return self.part("week", zone)

    def day(self, zone: str | None = None) -> Expr:
        return self.part("day", zone)

    def dow(self, zone: str | None = None) -> Expr:
        """Sunday is 0."""
        return self.part("dow", zone)

    def hour(self, zone: str | None = None) -> Expr:
        return self.part("hour", zone)

    def minute(self, zone: str | None = None) -> Expr:
        return self.part("minute", zone)

    def truncate(self, unit: Unit, zone: str | None = None) -> Expr:
        """Start of the unit; with a zone a local time."""
        return self.derived(f"DATE_TRUNC('{unit}', {self._local(zone)})")

    def days_until(self, end: Computing, zone: str | None = None) -> Expr:
        """How many midnights lie between, those of the zone or of UTC."""
        self.operand(end)
        return self.derived(f"DATE_DIFF('day', {self._local(zone)}, {end._local(zone)})")

    def days_in_month(self, zone: str | None = None) -> Expr:
        return self.derived(f"DAYS_IN_MONTH({self._local(zone)})")

    def epoch_ms(self) -> Expr:
        return self._call("EPOCH_MS")

    def to_timestamp_ms(self) -> Expr:
        """Of milliseconds since 1970."""
        return self._call("TIMESTAMP_MS")

    def to_timestamp_s(self) -> Expr:
        """Of seconds since 1970."""
        return self._call("TIMESTAMP_S")


def least(first: Computing, *others: object) -> Expr:
    """The least that is not null."""
    return first._call("LEAST", *others)


def greatest(first: Computing, *others: object) -> Expr:
    """The greatest that is not null."""
    return first._call("GREATEST", *others)
