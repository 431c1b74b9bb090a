"""A database of each test's own, on the shared stack."""

from __future__ import annotations

import uuid

import asyncpg
import pytest

from support.stack import kafka, postgres_dsn, registry_url

__all__ = ["database", "kafka", "postgres_dsn", "registry_url"]


@pytest.fixture
async def database(postgres_dsn: str) -> str:
    """DSN of a new, empty database."""
    name = f"train_{uuid.uuid4().hex[:10]}"
    connection = await asyncpg.connect(postgres_dsn)
    await connection.execute(f"create database {name}")
    await connection.close()
    head, _, tail = postgres_dsn.rpartition("/")
    return f"{head}/{name}{tail[tail.index('?') :] if '?' in tail else ''}"
