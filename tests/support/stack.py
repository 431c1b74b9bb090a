"""The real components integration tests talk to: those the environment names, else one stack of our own per test process."""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
from pathlib import Path

import pytest

from headrace_local import INFRASTRUCTURE, Ports, Stack


@functools.cache
def shared_stack() -> Stack:
    """Broker, registry, trace store and database on free ports, started on first use, gone with this process.

    One per process however many conftests import the fixtures; tests keep apart by the names of their topics.
    """
    stack = Stack(home=Path(tempfile.mkdtemp(prefix="headrace-test-")), ports=Ports.free(), ephemeral=True)
    atexit.register(stack.__exit__, None, None, None)
    stack.start(INFRASTRUCTURE)
    return stack


@pytest.fixture(scope="session")
def stack() -> Stack:
    """The running stack, without services."""
    return shared_stack()


@pytest.fixture(scope="session")
def kafka() -> str:
    """Bootstrap servers of a real broker."""
    return os.environ.get("HEADRACE_TEST_BOOTSTRAP") or shared_stack().bootstrap


@pytest.fixture(scope="session")
def registry_url() -> str:
    """Confluent-compatible address of a real schema registry."""
    return os.environ.get("HEADRACE_TEST_REGISTRY_URL") or shared_stack().registry_url


@pytest.fixture(scope="session")
def postgres_dsn() -> str:
    """A real PostgreSQL, database `headrace`."""
    return os.environ.get("HEADRACE_TEST_POSTGRES_DSN") or shared_stack().postgres_dsn


@pytest.fixture(scope="session")
def zipkin() -> str:
    """Base address of a real trace store."""
    return os.environ.get("HEADRACE_TEST_ZIPKIN") or shared_stack().zipkin_url
