"""What svc-monitor tells: above all, labels that do not come although their time has."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from headrace.plan.profile import DAY_MS
from svc_monitor.telemetry import MonitorMetrics
from unit.svc_monitor.worlds import DAY0, HOUR, PIPELINE, World, delivery, passport, profile, rollout

START = 100 * DAY_MS


def overdue_s(registry: CollectorRegistry, world: World) -> float | None:
    labels = {"pipeline": PIPELINE, "model": world.watch.model.name}
    return registry.get_sample_value("monitor_labels_overdue_seconds", labels)


def test_labels_are_overdue_from_the_maturity_of_the_oldest_open_decision_on() -> None:
    """Decisions go on, outcomes do not: event time of decisions past t + mature is what is told, no wall clock."""
    registry, world = CollectorRegistry(), World()
    metrics, labels = MonitorMetrics(registry), (PIPELINE, world.watch.model.name)
    mature_ms = world.watch.model.label.mature_ms
    world.decided(passport(1, START))
    world.delivered(delivery(1, START, 5))
    metrics.told(labels, world.watch, world.watch.advance())
    assert overdue_s(registry, world) == 0
    world.decided(passport(2, START + mature_ms + 3 * DAY_MS))
    metrics.told(labels, world.watch, world.watch.advance())
    assert overdue_s(registry, world) == 3 * 86_400
    world.time_to(START + mature_ms + 4 * DAY_MS)
    metrics.told(labels, world.watch, world.watch.advance())
    assert overdue_s(registry, world) == 0


def test_the_psi_of_a_champion_ends_with_it() -> None:
    """A new champion starts again at 0, and rules have no inputs that could move: their alert would never end."""
    registry, world = CollectorRegistry(), World()
    metrics, labels = MonitorMetrics(registry), (PIPELINE, world.watch.model.name)

    def psi() -> float | None:
        return registry.get_sample_value("monitor_drift_psi", {"pipeline": PIPELINE, "model": world.watch.model.name})

    world.watch.rollout(rollout(1), profile(DAY0))
    for number in range(7 * 40):
        at_ms = (DAY0 + number // 40) * DAY_MS + number % 40
        world.decided(passport(number, at_ms, amount=9.0))
        world.delivered(delivery(number, at_ms + HOUR, 0))
    world.time_to((DAY0 + 9) * DAY_MS)
    metrics.told(labels, world.watch, world.watch.advance())
    assert (psi() or 0) > 0.2
    world.watch.rollout(rollout(2, champion=""), None)
    metrics.told(labels, world.watch, world.watch.advance())
    assert psi() == 0
