"""A replica whose views were overtaken by compaction answers nothing and says that it is not ready, until they are whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from headrace.chassis.app import Chassis
from headrace.chassis.bus import TopicPartition
from headrace.chassis.health import Health
from headrace.chassis.state import MemoryStore
from headrace.chassis.view import PROGRESS_KEY, StateView
from headrace.contracts.errors import Retryable
from svc_serve.features import SetReader
from svc_serve.settings import ServeSettings
from svc_serve.viewing import _ViewLoop
from unit.chassis.test_view import TOPIC, Overtaken, decode, progress
from unit.svc_serve.rig import SET


def test_an_overtaken_view_makes_the_replica_unready_and_its_readers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.chassis.view.CONSUME_RECORDS_MAX", 1)
    world, health = Overtaken(), Health()
    health.ready("start")
    world.commit(1, (b"a", b"1"))
    settings = SimpleNamespace(instance="0")
    chassis = SimpleNamespace(settings=settings, clock=world.clock, metrics=world.metrics, health=health, bus=world.on)
    view = StateView(TopicPartition(TOPIC, 0), MemoryStore(), decode)
    loop = _ViewLoop("flights", [view], cast(Chassis[ServeSettings], chassis))
    assert view.live and health.report().ready
    world.commit(2, (b"a", b"2"))
    world.commit(3, (PROGRESS_KEY + b"x", progress(3)))
    world.clock.advance(700_000)
    steps = 0
    while health.report().ready:
        loop.step()
        steps += 1
        assert steps < 20, "never unready"
    assert "views flights" in health.report().reasons
    reader = SetReader(SET, [view] * SET.partitions, cast(Any, None))
    with pytest.raises(Retryable, match="being restored"):
        reader.read([cast(Any, SimpleNamespace(fields={"origin": "EWR"}, t_ms=0))])
    while not health.report().ready:
        loop.step()
    assert view.live and view.progress is not None and view.progress.commit_sequence == 3
    loop.close()
