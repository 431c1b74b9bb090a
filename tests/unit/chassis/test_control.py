"""Which record of a key counts when a control topic is read whole."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chassis.bus import Record
from headrace.chassis.control import Newest
from headrace.chassis.errors import Retryable

ENTRIES = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.none() | st.integers(0, 5)), max_size=25)


def log_of(entries: list[tuple[str, int | None]]) -> list[Record]:
    """A record per entry; None stands for one that does not verify."""
    return [
        Record("t", 0, i, 5, key.encode(), b"forged" if epoch is None else str(epoch).encode())
        for i, (key, epoch) in enumerate(entries)
    ]


def epoch_of(record: Record) -> int | None:
    return None if record.value in (None, b"forged") else int(record.value or b"")


def read(log: list[Record], ranked: bool) -> list[Record]:
    newest = Newest({"t": epoch_of} if ranked else {})
    for record in log:
        newest.add(record)
    return newest.records(["t"])


@settings(deadline=None)
@given(ENTRIES)
def test_the_highest_epoch_that_verifies_counts_and_a_newer_record_beside_it_is_told_too(
    entries: list[tuple[str, int | None]],
) -> None:
    """The oracle looks at all records of a key at once."""
    log = log_of(entries)
    expected: list[Record] = []
    for key in (b"a", b"b"):
        mine = [r for r in log if r.key == key]
        good = [r for r in mine if epoch_of(r) is not None]
        best = max(good, key=lambda r: (epoch_of(r) or 0, r.offset), default=None)
        expected += [best] if best else []
        expected += [r for r in mine[-1:] if r is not best]
    assert read(log, ranked=True) == sorted(expected, key=lambda r: r.offset)


@settings(deadline=None)
@given(ENTRIES)
def test_without_a_rank_the_newest_record_of_each_key_counts(entries: list[tuple[str, int | None]]) -> None:
    log = log_of(entries)
    newest = {r.key: r for r in log}
    assert read(log, ranked=False) == sorted(newest.values(), key=lambda r: r.offset)


def test_topics_come_in_the_order_they_were_asked_for() -> None:
    newest = Newest({})
    for i, topic in enumerate(["second", "first"]):
        newest.add(Record(topic, 0, 0, i, b"k", b"v"))
    assert [r.topic for r in newest.records(["first", "second"])] == ["first", "second"]


def test_a_record_that_cannot_be_judged_yet_changes_nothing() -> None:
    """The registry may be away; the same record is added again."""
    away = [True]

    def rank(record: Record) -> int | None:
        if away[0]:
            raise Retryable("registry away")
        return epoch_of(record)

    newest, (record,) = Newest({"t": rank}), log_of([("a", 3)])
    with pytest.raises(Retryable):
        newest.add(record)
    assert newest.records(["t"]) == []
    away[0] = False
    newest.add(record)
    assert newest.records(["t"]) == [record]
