"""How far event time has come, over partitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from svc_monitor.domain.event_time import EventTime

SEEN = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100)), max_size=20)


@given(SEEN, st.sets(st.integers(0, 3)), st.integers(0, 10))
def test_the_slowest_partition_that_may_bring_more_tells_the_time(
    seen: list[tuple[int, int]], idle: set[int], lateness: int
) -> None:
    time = EventTime(lateness)
    for partition, t in seen:
        time.seen(partition, t)
    newest = {p: max(t for q, t in seen if q == p) for p, _ in seen}
    waited_for = [t for p, t in newest.items() if p not in idle] or [max(newest.values(), default=0)]
    assert time.watermark(idle) == (min(waited_for) - lateness if seen else None)
    assert set(time.behind()) == {p for p, t in newest.items() if t < max(newest.values())}
