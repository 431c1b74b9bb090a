"""Rights go with topics: there before them, gone after them, and nobody's business where nobody asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from headrace.chassis.bus import Bus
from headrace.contracts.catalogue import platform_topics
from headrace.contracts.grants import Grant, platform_grants
from headrace.plan.grants import plan_grants, set_grants
from headrace.plan.topics import plan_topics
from svc_governance.adapters.resources import KafkaResources
from unit.svc_governance.worlds import Town, a_plan


class Kept:
    """Rights in memory; remembers which topics there were when each was given or taken back."""

    def __init__(self, bus: Bus, names: Sequence[str]) -> None:
        self._bus, self._names = bus, names
        self.now: set[Grant] = set()
        self.topics: list[set[str]] = []

    def _look(self) -> None:
        admin = self._bus.admin()
        self.topics.append({name for name in self._names if admin.partitions(name) is not None})

    def give(self, grants: Sequence[Grant]) -> None:
        self._look()
        self.now |= {*grants}

    def take_back(self, grants: Sequence[Grant]) -> None:
        self._look()
        self.now -= {*grants}


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def kept(town: Town) -> tuple[Kept, KafkaResources]:
    grants = Kept(town.bus, [spec.name for spec in (*platform_topics(), *plan_topics(a_plan()))])
    return grants, KafkaResources(town.bus, town.codec, grants)


def test_whoever_finds_a_topic_already_has_its_rights(town: Town) -> None:
    grants, resources = kept(town)
    resources.prepare_platform()
    resources.prepare(a_plan())
    before = [set(), {spec.name for spec in platform_topics()}]
    assert grants.topics == before
    assert grants.now == {*platform_grants(), *plan_grants(a_plan())}


def test_rights_on_the_topics_of_a_set_go_when_the_topics_have_gone(town: Town) -> None:
    plan, (grants, resources) = a_plan(), kept(town)
    resources.prepare(plan)
    resources.remove(plan, plan.feature_sets)
    assert not grants.now & {*set_grants(plan, plan.feature_sets)}
    assert grants.now == {*plan_grants(plan)} - {*set_grants(plan, plan.feature_sets)}
    assert not {name for name in grants.topics[-1] if "-state." in name or "-partials." in name}


def test_without_anyone_to_ask_topics_are_made_all_the_same(town: Town) -> None:
    KafkaResources(town.bus, town.codec).prepare(a_plan())
    assert all(town.bus.admin().partitions(spec.name) for spec in plan_topics(a_plan()))
