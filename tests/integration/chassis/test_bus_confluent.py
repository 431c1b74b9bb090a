"""The confluent adapter passes the suite on a real broker."""

from __future__ import annotations

import pytest

from headrace.chassis.bus import Bus
from headrace.chassis.bus_confluent import ConfluentBus
from support.bus_conformance import BusConformance


class TestConfluentBus(BusConformance):
    patience_s = 20.0

    @pytest.fixture
    def bus(self, kafka: str) -> Bus:
        return ConfluentBus(kafka)
