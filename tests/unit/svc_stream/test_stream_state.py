"""The changelog stays short and gives everything back; a key can be asked for; the page tells what runs."""

from __future__ import annotations

import random
import threading
from typing import Any

import polars as pl
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from headrace.chassis.bus import TopicPartition
from headrace.contracts.errors import Fatal
from headrace.plan.ir import Stream
from headrace.plan.topics import segments_topic
from svc_stream.streams import changelog, worker
from svc_stream.streams.columns import HEAD_BYTES, packed, parts, unpacked
from svc_stream.topology import add_routes, topology
from unit.svc_stream.stream_rig import StreamRig
from unit.svc_stream.stream_worlds import PLAN, fill
from unit.svc_stream.test_stream_crashes import came_of, finals

STATEFUL = [s for s in PLAN.streams if s.window is not None or s.join is not None or s.distinct is not None]


@pytest.mark.parametrize("stream", STATEFUL, ids=lambda s: s.name)
def test_a_log_that_is_swept_and_purged_all_the_time_gives_the_state_back(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every worker dies after a few rounds, without its disk: the next one has only what the log still holds."""
    calm = StreamRig(PLAN)
    fill(calm, random.Random(2), 80)
    calm.drain(calm.worker(stream))
    for name, value in (("LOG_SPARE", 4), ("LOG_PER_LIVE", 1), ("SWEEP_ENTRIES_MIN", 2)):
        monkeypatch.setattr(changelog, name, value)
    monkeypatch.setattr(worker, "PURGE_EVERY_S", 0.0)
    rig, rng = StreamRig(PLAN), random.Random(2)
    fill(rig, random.Random(2), 80)
    for _ in range(12):
        mortal = rig.worker(stream, lose_disk=True)
        for _ in range(rng.randint(3, 7)):
            rig.round(mortal, rng.choice((2, 5, 9)))
        mortal.close()
    last = rig.worker(stream, lose_disk=True)
    rig.drain(last, rng=rng)
    assert came_of(rig, stream) == came_of(calm, stream)
    starts = [rig.broker.log(TopicPartition(segments_topic(PLAN, stream), p)).start for p in range(stream.partitions)]
    assert max(starts) > 0 or stream.name == "shop_threes", "a log was cut at least once"


def test_a_state_larger_than_its_cache_gives_the_same_results() -> None:
    stream = next(s for s in PLAN.streams if s.name == "shop_sessions")
    whole, tight = StreamRig(PLAN), StreamRig(PLAN, cache_bytes=0)
    for rig in (whole, tight):
        fill(rig, random.Random(5), 120)
        rig.drain(rig.worker(stream), rng=random.Random(1))
    assert finals(tight, stream) == finals(whole, stream) != []


def test_pieces_of_a_frame_are_small_and_together_the_frame() -> None:
    frame = pl.DataFrame({"key": [f"key {i}" * (i % 50) for i in range(3_000)], "at": range(3_000)})
    pieces = list(parts(frame, 20_000))
    assert pl.concat(pieces).equals(frame)
    assert max(len(packed(p)) for p in pieces) < 20_000 + 3 * HEAD_BYTES
    assert len(pieces) > 3
    assert unpacked(packed(frame), 1).equals(frame)
    with pytest.raises(Fatal, match="layout 2"):
        unpacked(packed(frame), 2)


def served(rig: StreamRig, stream: Stream) -> tuple[TestClient, Any]:
    made = rig.worker(stream)
    rig.drain(made)
    http = FastAPI()
    add_routes(http, lambda: {("shop", stream.hash): made}, lambda: 0.0)
    return TestClient(http), made


def test_a_key_is_answered_between_two_commits() -> None:
    stream = next(s for s in PLAN.streams if s.name == "shop_sessions")
    rig = StreamRig(PLAN)
    fill(rig, random.Random(3), 60)
    client, made = served(rig, stream)
    going, stop = threading.Thread(target=lambda: _rounds(made, stop)), threading.Event()
    going.start()
    found = client.get(f"/v1/state/shop/{stream.name}/{next(iter(_tables(made)))}", params={"key": "end"})
    missing = client.get(f"/v1/state/shop/{stream.name}/nothing", params={"key": "end"})
    unknown = client.get("/v1/state/shop/nothing/panes", params={"key": "end"})
    stop.set()
    going.join()
    assert found.status_code == 200, found.text
    assert found.json()["entries"], "the last record's session is open"
    assert {e["key"] for e in found.json()["entries"]} == {"end"}
    assert found.json()["commit"] > 0
    assert (missing.status_code, unknown.status_code) == (404, 404)
    assert "no table nothing" in missing.text


def _tables(made: Any) -> Any:
    return next(iter(made.tasks.operators.values())).task.operator.tables


def _rounds(made: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        made.step()


def test_the_page_tells_what_each_stream_does() -> None:
    rig = StreamRig(PLAN)
    fill(rig, random.Random(3), 60)
    workers = {("shop", s.hash): rig.worker(s) for s in PLAN.streams}
    rig.drain(*workers.values())
    found = {entry["stream"]: entry for entry in topology(workers, 1.0)}
    assert set(found) == {s.name for s in PLAN.streams}
    assert found["order_minutes"]["way"] == "keyed already"
    assert found["shop_hops"]["way"] == "rekeyed"
    assert found["shop_hops"]["operator"] == "hopping size 600s hop 120s, on both"
    assert found["large_orders"]["way"] == "mapped"
    assert found["order_shipped"]["operator"] == "interval join, left"
    assert found["order_at_rate"]["store"] == "memory"
    assert found["first_orders"]["operator"] == "distinct within 600s"
    assert sum(found["shop_sessions"]["verdicts"]["orders"].values()) > 20
    assert found["shop_sessions"]["results"] > 0
