"""Rights, topics and schemas: the platform's at the start, a plan's on admission, so that producers not ours find them too."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.chassis.bus import Bus
from headrace.chassis.grants_confluent import Grants
from headrace.contracts.catalogue import plan_topics, platform_topics
from headrace.contracts.codec import Codec
from headrace.contracts.grants import platform_grants
from headrace.plan.avro import event_schema
from headrace.plan.grants import plan_grants, set_grants
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.topics import partials_topic, state_topic, worker_group


class KafkaResources:
    def __init__(self, bus: Bus, codec: Codec, grants: Grants | None = None) -> None:
        """grants: none where the broker asks nobody for rights, or somebody else gives them."""
        self._bus, self._codec, self._grants = bus, codec, grants

    def prepare_platform(self) -> None:
        if self._grants is not None:
            self._grants.give(platform_grants())
        self._bus.admin().ensure_topics(platform_topics())

    def prepare(self, plan: Plan) -> None:
        if self._grants is not None:
            self._grants.give(plan_grants(plan))  # before the topics: who finds a topic may use it
        self._bus.admin().ensure_topics(plan_topics(plan))
        for event in plan.events:
            self._codec.register_event(event_schema(plan, event))

    def remove(self, plan: Plan, sets: Sequence[FeatureSet]) -> None:
        admin = self._bus.admin()
        # Groups first: offsets without a state would keep a worker of the same hash waiting for it for ever.
        admin.delete_groups([worker_group(plan, item) for item in sets])
        admin.delete_topics([topic(plan, item) for item in sets for topic in (partials_topic, state_topic)])
        if self._grants is not None:
            self._grants.take_back(set_grants(plan, sets))
