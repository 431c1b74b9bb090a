"""The broker and the registry these tests run against."""

from __future__ import annotations

import os

import pytest

from support.stack import kafka  # noqa: F401  a fixture


@pytest.fixture(scope="session")
def registry_url() -> str:
    """Confluent-compatible API of a real schema registry."""
    url = os.environ.get("HEADRACE_TEST_REGISTRY_URL", "")
    if not url:
        pytest.skip("no registry: set HEADRACE_TEST_REGISTRY_URL")
    return url
