"""The runs table on a real PostgreSQL: one trigger one run, leases, fences, outbox."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from headrace.contracts.errors import Retryable
from svc_train.adapters.jobs import PostgresJobs
from svc_train.ports import LeaseLost, Message, Run

ASK = Message("dataset", "features.dataset-requests.v1", "p/m", b"ask")
SOON_S = 0.2


async def accept(jobs: PostgresJobs, run: str = "run") -> bool:
    return await jobs.accept(run, "p", "m", {"a": 1}, [ASK])


async def leased(jobs: PostgresJobs, lease_s: float = 30.0) -> Run:
    run = await jobs.lease(lease_s, 1000.0)
    assert run is not None
    return run


async def test_the_same_trigger_five_times_in_parallel_is_one_run(database: str) -> None:
    """Five replicas, each with its own connections, started together on an empty database."""
    replicas = await asyncio.gather(*(PostgresJobs.connect(database) for _ in range(5)))
    assert sorted(await asyncio.gather(*(accept(jobs) for jobs in replicas))) == [False] * 4 + [True]
    assert [m for _, m in await replicas[0].unsent()] == [ASK]
    runs = await asyncio.gather(*(jobs.lease(30.0, 1000.0) for jobs in replicas))
    assert [r.run_id for r in runs if r is not None] == ["run"], "one of them holds it"
    for jobs in replicas:
        await jobs.close()


async def test_a_worker_whose_lease_ran_out_changes_nothing(database: str) -> None:
    jobs = await PostgresJobs.connect(database)
    await accept(jobs)
    ghost = await leased(jobs, SOON_S)
    assert await jobs.lease(30.0, 1000.0) is None, "held"
    await asyncio.sleep(1.5 * SOON_S)
    heir = await leased(jobs)
    assert (ghost.fence, heir.fence) == (1, 2)
    candidate = Message("candidate", "train.model-candidates.v1", "p/m", b"candidate")
    with pytest.raises(LeaseLost):
        await jobs.change(ghost, "DONE", "", [candidate])
    with pytest.raises(LeaseLost):
        await jobs.renew(ghost, 30.0)
    assert [(r["state"], r["fence"]) for r in await jobs.listing()] == [("ACCEPTED", 2)]
    assert [m.kind for _, m in await jobs.unsent()] == ["dataset"]
    await jobs.change(heir, "DONE", "", [candidate])
    await jobs.change(heir, "DONE", "", [candidate])  # an answer that was lost is asked for again
    assert [m.kind for _, m in await jobs.unsent()] == ["dataset", "candidate"]
    assert await jobs.lease(30.0, 1000.0) is None, "nothing is left to do"
    await jobs.close()


async def test_a_run_waits_for_its_data_set_and_not_for_ever(database: str) -> None:
    jobs = await PostgresJobs.connect(database)
    await accept(jobs)
    await jobs.change(await leased(jobs), "DATASET", "", [])
    assert await jobs.lease(30.0, 1000.0) is None
    assert not await jobs.deliver_dataset("other", {})
    assert await jobs.deliver_dataset("run", {"n": 1})
    assert not await jobs.deliver_dataset("run", {"n": 2}), "the first answer stays"
    assert (await leased(jobs)).dataset == {"n": 1}
    await accept(jobs, "second")
    second = await leased(jobs)
    await jobs.change(second, "DATASET", "", [])
    late = await jobs.lease(30.0, 0.0)
    assert late is not None
    assert (late.run_id, late.dataset) == ("second", None)
    await jobs.close()


async def test_a_lease_kept_over_a_change_still_holds_and_a_renewed_one_longer(database: str) -> None:
    jobs = await PostgresJobs.connect(database)
    await accept(jobs)
    run = await leased(jobs, SOON_S)
    await jobs.change(run, "TRAINING", "", [], keep_lease=True)
    await jobs.renew(run, 30.0)
    await asyncio.sleep(1.5 * SOON_S)
    assert await jobs.lease(30.0, 1000.0) is None
    await jobs.change(run, "TRAINING", "", [])
    assert (await leased(jobs)).fence == run.fence + 1
    await jobs.close()


async def test_what_was_not_said_yet_is_said_by_the_next_life(database: str) -> None:
    first = await PostgresJobs.connect(database)
    await accept(first)
    await first.close()
    second = await PostgresJobs.connect(database)
    ((number, message),) = await second.unsent()
    assert message == ASK
    await second.sent([number])
    assert await second.unsent() == []
    await second.close()


async def test_a_database_that_does_not_answer_is_retryable(database: str) -> None:
    """At the start, and when every connection breaks later; the next call finds a new one."""
    with pytest.raises(Retryable, match="does not answer"):
        await PostgresJobs.connect("postgresql://postgres@127.0.0.1:1/none")
    jobs = await PostgresJobs.connect(database)
    other = await asyncpg.connect(database)
    ours = "select pid from pg_stat_activity where datname = current_database() and pid <> $1"
    await other.execute(f"select pg_terminate_backend(pid) from ({ours}) as ours", other.get_server_pid())
    outcomes = await asyncio.gather(*(jobs.listing() for _ in range(2)), return_exceptions=True)
    assert all(o == [] or isinstance(o, Retryable) for o in outcomes), outcomes
    assert await jobs.listing() == []
    await other.close()
    await jobs.close()
