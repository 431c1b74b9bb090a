"""A secure stack: broker and registry of its own, TLS and rights on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_local import Ports, Stack

COMPONENTS = ("kafka", "registry", "postgres", "svc-governance", "svc-ingest")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Started once for the tests of a file."""
    home: Path = tmp_path_factory.mktemp("secure") / "stack"
    env = {"svc-ingest": {"HEADRACE_DROP_DIR": str(home / "drop")}}
    with Stack(home=home, ports=Ports.free(), env=env, secure=True, ephemeral=True) as stack:
        stack.start(COMPONENTS)
        yield stack
