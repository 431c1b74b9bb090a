"""The whole stack with its seven services, on free ports, gone with the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_demo.run import SERVICE_ENV
from headrace_local import Ports, Stack


@pytest.fixture(scope="session")
def platform() -> Iterator[Stack]:
    """Every component is ready."""
    home = Path(tempfile.mkdtemp(prefix="headrace-e2e-"))
    with Stack(home=home, ports=Ports.free(), env=SERVICE_ENV, ephemeral=True) as stack:
        stack.start()
        yield stack
