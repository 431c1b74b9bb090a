"""Runs in PostgreSQL: one row per run, leased with a fencing token; messages leave through an outbox.

    ACCEPTED -> DATASET -> TRAINING -> DONE
        \\__________\\____________\\--> FAILED

Every change carries the fence it was leased under: a worker that lost its lease changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from headrace.contracts.errors import HeadraceError, Retryable

SCHEMA = """
create table if not exists runs (
  run_id text primary key, pipeline text not null, model text not null, state text not null,
  fence bigint not null default 0, leased_until timestamptz, request jsonb not null, dataset jsonb,
  detail text not null default '', created timestamptz not null default now(), changed timestamptz not null default now());
create table if not exists outbox (
  id bigserial primary key, run_id text not null references runs, kind text not null,
  topic text not null, key text not null, value bytea not null, sent boolean not null default false,
  unique (run_id, kind));
"""
OPEN_STATES = ("ACCEPTED", "DATASET", "TRAINING")


class LeaseLost(HeadraceError):
    """Another worker took the run over; what this one did does not count."""


@dataclass(frozen=True, slots=True)
class Run:
    """One leased run. request and dataset are the records' fields as JSON objects."""

    run_id: str
    state: str
    fence: int
    request: dict[str, object]
    dataset: dict[str, object] | None


@dataclass(frozen=True, slots=True)
class Message:
    """One record to publish with a change of state; `kind` makes it unique within the run."""

    kind: str
    topic: str
    key: str
    value: bytes


class Jobs:
    """The runs table. Raises Retryable when the database does not answer."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def connect(cls, dsn: str) -> Jobs:
        try:
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=4)
            await pool.execute(SCHEMA)
        except (OSError, asyncpg.PostgresError) as error:
            raise Retryable(f"database does not answer: {error}: is HEADRACE_POSTGRES_DSN right and PostgreSQL up?") from error
        return cls(pool)

    async def accept(self, run_id: str, pipeline: str, model: str, request: dict[str, object], message: Message) -> bool:
        """Insert the run and its first message; False if it exists: one trigger, one run."""
        async with self._pool.acquire() as connection, connection.transaction():
            inserted = await connection.fetchval(
                "insert into runs (run_id, pipeline, model, state, request) values ($1,$2,$3,'ACCEPTED',$4)"
                " on conflict do nothing returning run_id",
                run_id, pipeline, model, json.dumps(request),
            )  # fmt: skip
            if inserted is None:
                return False
            await self._put(connection, run_id, [message])
            return True

    async def lease(self, lease_s: float) -> Run | None:
        """Take the oldest open run nobody holds; its fence grows."""
        row = await self._pool.fetchrow(
            "update runs set fence = fence + 1, leased_until = now() + make_interval(secs => $1) where run_id ="
            " (select run_id from runs where state = any($2) and (leased_until is null or leased_until < now())"
            "  and (state <> 'DATASET' or dataset is not null) order by created limit 1 for update skip locked)"
            " returning run_id, state, fence, request, dataset",
            lease_s, list(OPEN_STATES),
        )  # fmt: skip
        if row is None:
            return None
        dataset = json.loads(row["dataset"]) if row["dataset"] else None
        return Run(row["run_id"], row["state"], row["fence"], json.loads(row["request"]), dataset)

    async def renew(self, run: Run, lease_s: float) -> None:
        """Raises LeaseLost if the run is another's now."""
        changed = await self._pool.fetchval(
            "update runs set leased_until = now() + make_interval(secs => $3) where run_id = $1 and fence = $2 returning 1",
            run.run_id, run.fence, lease_s,
        )  # fmt: skip
        if changed is None:
            raise LeaseLost(f"run {run.run_id[:12]} was taken over")

    async def change(self, run: Run, state: str, detail: str, messages: Sequence[Message]) -> None:
        """Enter a state, release the lease and leave messages, all or nothing, under the fence."""
        async with self._pool.acquire() as connection, connection.transaction():
            changed = await connection.fetchval(
                "update runs set state = $3, detail = $4, leased_until = null, changed = now()"
                " where run_id = $1 and fence = $2 returning 1",
                run.run_id, run.fence, state, detail,
            )  # fmt: skip
            if changed is None:
                raise LeaseLost(f"run {run.run_id[:12]} was taken over before {state}")
            await self._put(connection, run.run_id, messages)

    async def deliver_dataset(self, run_id: str, dataset: dict[str, object]) -> bool:
        """Note the data set of a run; the first answer stays. False if no such run waits."""
        changed = await self._pool.fetchval(
            "update runs set dataset = $2, changed = now() where run_id = $1 and dataset is null returning 1",
            run_id, json.dumps(dataset),
        )  # fmt: skip
        return changed is not None

    async def unsent(self, limit: int = 100) -> list[tuple[int, Message]]:
        """Messages still to publish, oldest first."""
        rows = await self._pool.fetch(
            "select id, kind, topic, key, value from outbox where not sent order by id limit $1", limit
        )
        return [(r["id"], Message(r["kind"], r["topic"], r["key"], r["value"])) for r in rows]

    async def sent(self, ids: Sequence[int]) -> None:
        await self._pool.execute("update outbox set sent = true where id = any($1)", list(ids))

    async def listing(self, limit: int = 50) -> list[dict[str, object]]:
        """Newest runs, for the status page."""
        rows = await self._pool.fetch(
            "select run_id, pipeline, model, state, detail, fence, created, changed from runs order by created desc limit $1",
            limit,
        )
        return [dict(row) for row in rows]

    async def close(self) -> None:
        await self._pool.close()

    @staticmethod
    async def _put(connection: asyncpg.pool.PoolConnectionProxy, run_id: str, messages: Sequence[Message]) -> None:
        for m in messages:
            await connection.execute(
                "insert into outbox (run_id, kind, topic, key, value) values ($1,$2,$3,$4,$5) on conflict do nothing",
                run_id, m.kind, m.topic, m.key, m.value,
            )  # fmt: skip
