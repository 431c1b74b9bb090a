"""Runs in PostgreSQL: one row per run, leased with a fencing token; messages leave through an outbox.

    ACCEPTED -> DATASET -> TRAINING -> DONE
        \\__________\\____________\\--> FAILED

Every change carries the fence it was leased under: a worker that lost its lease changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg

from headrace.contracts.errors import Retryable
from svc_train.ports import LeaseLost, Message, Run

SCHEMA = """
create schema if not exists svc_train;
create table if not exists svc_train.runs (
  run_id text primary key, pipeline text not null, model text not null, state text not null,
  fence bigint not null default 0, leased_until timestamptz, request jsonb not null, dataset jsonb,
  detail text not null default '', created timestamptz not null default now(), changed timestamptz not null default now());
create table if not exists svc_train.outbox (
  id bigserial primary key, run_id text not null references svc_train.runs, kind text not null,
  topic text not null, key text not null, value bytea not null, sent boolean not null default false,
  unique (run_id, kind));
create index if not exists outbox_unsent on svc_train.outbox (id) where not sent;
"""
SCHEMA_LOCK = 0x68656164  # any constant: replicas that start together create the tables one after the other
OPEN_STATES = ("ACCEPTED", "DATASET", "TRAINING")
COMMAND_TIMEOUT_S = 30.0

# The world's fault; what else PostgreSQL says is ours.
_WORLD = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that ends between two steps of the client
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except _WORLD as error:
        raise Retryable(f"database does not answer: {error!r}: is HEADRACE_POSTGRES_DSN right and PostgreSQL up?") from error


class PostgresJobs:
    """The runs table: `svc_train.ports.Jobs`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def connect(cls, dsn: str, password: Callable[[], str | None] | None = None) -> PostgresJobs:
        """Creates the tables where they are missing. Raises Retryable.

        Args:
            password: asked for each new connection, so that a changed one is taken up; none, or None: as the DSN says.
        """
        how: dict[str, Any] = {"min_size": 1, "max_size": 4, "command_timeout": COMMAND_TIMEOUT_S}
        if password is not None and password() is not None:
            how["password"] = password
        with _translated():
            pool = await asyncpg.create_pool(dsn, **how)
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("select pg_advisory_xact_lock($1)", SCHEMA_LOCK)
                await connection.execute(SCHEMA)
        return cls(pool)

    async def accept(
        self, run_id: str, pipeline: str, model: str, request: dict[str, object], messages: Sequence[Message]
    ) -> bool:
        with _translated():
            async with self._pool.acquire() as connection, connection.transaction():
                inserted = await connection.fetchval(
                    "insert into svc_train.runs (run_id, pipeline, model, state, request) values ($1,$2,$3,'ACCEPTED',$4)"
                    " on conflict do nothing returning run_id",
                    run_id, pipeline, model, json.dumps(request),
                )  # fmt: skip
                if inserted is None:
                    return False
                await _put(connection, run_id, messages)
                return True

    async def lease(self, lease_s: float, dataset_timeout_s: float) -> Run | None:
        with _translated():
            row = await self._pool.fetchrow(
                "update svc_train.runs set fence = fence + 1, leased_until = now() + make_interval(secs => $1) where run_id ="
                " (select run_id from svc_train.runs where state = any($2) and (leased_until is null or leased_until < now())"
                "  and (state <> 'DATASET' or dataset is not null or changed < now() - make_interval(secs => $3))"
                "  order by created limit 1 for update skip locked)"
                " returning run_id, state, fence, request, dataset",
                lease_s, list(OPEN_STATES), dataset_timeout_s,
            )  # fmt: skip
        if row is None:
            return None
        dataset = json.loads(row["dataset"]) if row["dataset"] else None
        return Run(row["run_id"], row["state"], row["fence"], json.loads(row["request"]), dataset)

    async def renew(self, run: Run, lease_s: float) -> None:
        with _translated():
            renewed = await self._pool.fetchval(
                "update svc_train.runs set leased_until = now() + make_interval(secs => $3)"
                " where run_id = $1 and fence = $2 returning 1",
                run.run_id, run.fence, lease_s,
            )  # fmt: skip
        if renewed is None:
            raise LeaseLost(f"run {run.run_id[:12]} was taken over")

    async def change(self, run: Run, state: str, detail: str, messages: Sequence[Message], *, keep_lease: bool = False) -> None:
        with _translated():
            async with self._pool.acquire() as connection, connection.transaction():
                changed = await connection.fetchval(
                    "update svc_train.runs set state = $3, detail = $4, changed = now(),"
                    " leased_until = case when $5 then leased_until end where run_id = $1 and fence = $2 returning 1",
                    run.run_id, run.fence, state, detail, keep_lease,
                )  # fmt: skip
                if changed is None:
                    raise LeaseLost(f"run {run.run_id[:12]} was taken over before {state}")
                await _put(connection, run.run_id, messages)

    async def deliver_dataset(self, run_id: str, dataset: dict[str, object]) -> bool:
        with _translated():
            delivered = await self._pool.fetchval(
                "update svc_train.runs set dataset = $2 where run_id = $1 and dataset is null"
                " and state in ('ACCEPTED', 'DATASET') returning 1",
                run_id, json.dumps(dataset),
            )  # fmt: skip
        return delivered is not None

    async def unsent(self, limit: int = 100) -> list[tuple[int, Message]]:
        with _translated():
            rows = await self._pool.fetch(
                "select id, kind, topic, key, value from svc_train.outbox where not sent order by id limit $1", limit
            )
        return [(r["id"], Message(r["kind"], r["topic"], r["key"], r["value"])) for r in rows]

    async def sent(self, numbers: Sequence[int]) -> None:
        with _translated():
            await self._pool.execute("update svc_train.outbox set sent = true where id = any($1)", list(numbers))

    async def listing(self, limit: int = 50) -> list[dict[str, object]]:
        with _translated():
            rows = await self._pool.fetch(
                "select run_id, pipeline, model, state, detail, fence, created, changed from svc_train.runs"
                " order by created desc limit $1",
                limit,
            )
        return [dict(row) for row in rows]

    async def close(self) -> None:
        await self._pool.close()


async def _put(connection: asyncpg.pool.PoolConnectionProxy, run_id: str, messages: Sequence[Message]) -> None:
    for m in messages:
        await connection.execute(
            "insert into svc_train.outbox (run_id, kind, topic, key, value) values ($1,$2,$3,$4,$5) on conflict do nothing",
            run_id, m.kind, m.topic, m.key, m.value,
        )  # fmt: skip
