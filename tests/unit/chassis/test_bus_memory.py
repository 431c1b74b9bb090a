"""The in-memory bus passes the suite of the real one."""

from __future__ import annotations

import pytest

from headrace.chassis.bus import Bus
from headrace.chassis.bus_memory import MemoryBus
from support.bus_conformance import BusConformance


class TestMemoryBus(BusConformance):
    @pytest.fixture
    def bus(self) -> Bus:
        return MemoryBus()
