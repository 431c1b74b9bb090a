"""What a stream does with its rows: windows over one event, joins of two. Only descriptions; STREAMS.md defines them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, get_args

from headrace.declare.durations import duration_ms
from headrace.declare.errors import Where, here, refuse
from headrace.declare.events import Event
from headrace.plan import ir

KeyFields: TypeAlias = str | tuple[str, ...]
By: TypeAlias = KeyFields | Mapping[type[Event], KeyFields] | None


def one_of(name: str, value: str, options: tuple[str, ...], where: Where) -> None:
    """Raises: DeclarationError at the line if a word is none of those there are."""
    if value not in options:
        raise refuse(where, f'{name}="{value}"', f"one of {', '.join(options)}")


class Windowing:
    """Which rows of a key are aggregated together, in event time."""

    window: ir.Window


class Tumbling(Windowing):
    """One window after the other, from multiples of the size: Tumbling("10s")."""

    def __init__(self, size: str) -> None:
        self.window = ir.Window("tumbling", size_ms=duration_ms(size))


class Hopping(Windowing):
    """Windows that overlap, from multiples of the hop: Hopping("60s", hop="5s")."""

    def __init__(self, size: str, hop: str) -> None:
        self.window = ir.Window("hopping", size_ms=duration_ms(size), hop_ms=duration_ms(hop))


class Sliding(Windowing):
    """At each event time of the key, what came within the size before it, itself included: Sliding("10m")."""

    def __init__(self, size: str) -> None:
        self.window = ir.Window("sliding", size_ms=duration_ms(size))


class Session(Windowing):
    """Rows of a key that follow each other within the gap: Session(gap="30s")."""

    def __init__(self, gap: str) -> None:
        self.window = ir.Window("session", gap_ms=duration_ms(gap))


class Count(Windowing):
    """So many rows of a key, in the order of event time: Count(100). A rest of fewer waits."""

    def __init__(self, rows: int) -> None:
        if type(rows) is not int:
            raise refuse(here(), f"Count({rows!r})", "how many rows, such as Count(100)")
        self.window = ir.Window("count", rows=rows)


class Joining:
    """Rows of two events with equal keys."""

    left: type[Event]
    right: type[Event]
    by: By
    join: ir.Join
    location: Where

    def __init__(self, left: type[Event], right: type[Event], by: By, join: ir.Join) -> None:
        self.left, self.right, self.by, self.join, self.location = left, right, by, join, here()
        for side in (left, right):
            if not (isinstance(side, type) and issubclass(side, Event)):
                raise refuse(self.location, f"a join of {side!r}", "name two events, or streams")
        one_of("how", join.how, get_args(ir.JoinHow), self.location)
        for named in by if isinstance(by, Mapping) else ():
            if named not in (left, right):
                raise refuse(
                    self.location, f"by names {named.__name__}, which is not joined", f"of {left.__name__} and {right.__name__}"
                )
        if left is right:
            hint = f"make a stream of {left.__name__} under another name, and join that"
            raise refuse(self.location, f"{left.__name__} joined with itself: nobody knows which side is meant", hint)


class IntervalJoin(Joining):
    """Pairs whose right row is at most `before` earlier and `after` later than the left one.

    IntervalJoin(Ordered, Shipped, by="order_id", after="1d", how="left")

    Args:
        by: the field, or fields, equal on both sides; {Ordered: "order_id", Shipped: "of_order"} where names differ. The
            message keys if left out.
        how: inner: pairs only, as soon as both are there. left, outer: rows without a partner too, once none can come.
    """

    def __init__(
        self,
        left: type[Event],
        right: type[Event],
        *,
        by: By = None,
        before: str = "0s",
        after: str = "0s",
        how: ir.JoinHow = "inner",
    ) -> None:
        join = ir.Join("interval", how, before_ms=duration_ms(before), after_ms=duration_ms(after))
        super().__init__(left, right, by, join)


class AsOfJoin(Joining):
    """Each left row with the newest right row at its time or before, not older than `max_age`.

    AsOfJoin(Trade, Quote, by="symbol", max_age="1m", how="left")

    Decided once the watermark has passed the left row, so a quote that comes late, but not too late, still counts.
    """

    def __init__(
        self, left: type[Event], right: type[Event], *, by: By = None, max_age: str, how: ir.JoinHow = "inner"
    ) -> None:
        super().__init__(left, right, by, ir.Join("as_of", how, max_age_ms=duration_ms(max_age)))


class TableJoin(Joining):
    """Each left row with the entry that its key had in a table at its time.

    TableJoin(Ordered, Customer, by="customer_id", how="left")

    The right event is a changelog by its message key: the newest record of a key is its entry, and a record without a value
    removes it. `by` names the left's field that holds that key; the left's message key if left out.
    """

    def __init__(self, left: type[Event], right: type[Event], *, by: By = None, how: ir.JoinHow = "inner") -> None:
        super().__init__(left, right, by, ir.Join("table", how))
