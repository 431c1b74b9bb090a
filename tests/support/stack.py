"""The real components integration tests talk to: those the environment names, else a stack of our own."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def kafka() -> str:
    """Bootstrap servers of a real broker."""
    bootstrap = os.environ.get("HEADRACE_TEST_BOOTSTRAP", "")
    if not bootstrap:
        pytest.skip("no broker: set HEADRACE_TEST_BOOTSTRAP")
    return bootstrap
