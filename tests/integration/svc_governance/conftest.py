"""svc-governance as a process of its own, with a real broker and registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_local import Ports, Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home: Path = tmp_path_factory.mktemp("governance") / "stack"
    with Stack(home=home, ports=Ports.free(), ephemeral=True) as stack:
        stack.start(("kafka", "registry", "svc-governance"))
        yield stack
