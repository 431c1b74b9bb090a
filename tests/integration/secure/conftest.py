"""A secure stack of its own: broker, registry and database behind walls, and the services of one round trip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace_local import Ports, Stack

COMPONENTS = ("kafka", "registry", "postgres", "svc-ingest", "svc-serve", "svc-governance")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Started once for the tests of a file."""
    home = tmp_path_factory.mktemp("secure") / "stack"
    with Stack(home=home, ports=Ports.free(), secure=True, ephemeral=True) as stack:
        stack.start(COMPONENTS)
        yield stack
