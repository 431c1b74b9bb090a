"""The real components integration tests talk to: those the environment names, else one stack of our own per test process.

    HEADRACE_TEST_BOOTSTRAP  HEADRACE_TEST_REGISTRY  HEADRACE_TEST_ZIPKIN  HEADRACE_TEST_POSTGRES

A conftest imports the fixtures it needs. Tests share the components and keep apart by names of their own.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from functools import cache
from pathlib import Path

import pytest
from headrace_local import INFRASTRUCTURE, Ports, Stack


@cache
def own_stack() -> Stack:
    """Broker, registry, trace store and database on free ports; ended with this process, its data with it."""
    home = Path(tempfile.mkdtemp(prefix="headrace-test-"))
    stack = Stack(home=home, ports=Ports.free(), ephemeral=True)
    atexit.register(stack.__exit__, None, None, None)
    stack.start(INFRASTRUCTURE)
    return stack


@pytest.fixture(scope="session")
def kafka() -> str:
    """Bootstrap servers of a real broker."""
    return os.environ.get("HEADRACE_TEST_BOOTSTRAP") or own_stack().bootstrap


@pytest.fixture(scope="session")
def registry() -> str:
    """Base address of a real schema registry, Confluent API."""
    return os.environ.get("HEADRACE_TEST_REGISTRY") or own_stack().registry_url


@pytest.fixture(scope="session")
def zipkin() -> str:
    """Base address of a real trace store."""
    return os.environ.get("HEADRACE_TEST_ZIPKIN") or own_stack().zipkin_url


@pytest.fixture(scope="session")
def postgres() -> str:
    """Connection string of a real database."""
    return os.environ.get("HEADRACE_TEST_POSTGRES") or own_stack().postgres_dsn
