"""The real broker, registry, trace store and database, started by the launcher."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # pyright: ignore[reportPrivateImportUsage]

from headrace_local import INFRASTRUCTURE, Ports, Stack, procs
from headrace_local.errors import LauncherError


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/vnd.schemaregistry.v1+json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


def make_topic(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1)])[topic].result(20)


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic, "acks": "all"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(topic, value)
    producer.commit_transaction(20)


def read_all(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        return [message.value() or b"" for message in consumer.consume(count, 30)]
    finally:
        consumer.close()


async def query(dsn: str, *statements: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return [await connection.fetch(statement) for statement in statements][-1]
    finally:
        await connection.close()


def record(*fields: str, default: bool = True) -> dict[str, Any]:
    extra = {"default": ""} if default else {}
    body = {"type": "record", "name": "R", "fields": [{"name": name, "type": "string"} | extra for name in fields]}
    return {"schema": json.dumps(body)}


def test_the_broker_carries_a_transaction(stack: Stack) -> None:
    make_topic(stack.bootstrap, "launcher-transaction")
    produce(stack.bootstrap, "launcher-transaction", b"x")
    assert read_all(stack.bootstrap, "launcher-transaction", 1) == [b"x"]


def test_the_registry_refuses_a_backward_incompatible_schema_by_default(stack: Stack) -> None:
    url = f"{stack.registry_url}/subjects/launcher-value/versions"
    first = call(url, record("a"))["id"]
    assert call(url, record("a", "b"))["id"] != first
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(url, record("a", "b", "c", default=False))
    assert caught.value.code == 409


def test_the_trace_store_answers_its_query_interface(stack: Stack) -> None:
    assert isinstance(call(f"{stack.zipkin_url}/api/v2/services"), list)  # other tests may have sent spans


async def test_the_database_is_there_and_ready_for_logical_replication(stack: Stack) -> None:
    (row,) = await query(stack.postgres_dsn, "select current_database() as name, current_setting('wal_level') as wal")
    assert (row["name"], row["wal"]) == ("headrace", "logical")


def test_every_listener_is_on_this_machine_only(stack: Stack) -> None:
    for part in stack.components().values():
        addresses = {ip for ips in procs.listeners(part.pid).values() for ip in ips}
        assert addresses
        assert all(ip.removeprefix("::ffff:").startswith("127.") for ip in addresses)


def test_what_was_written_survives_kill_minus_nine_and_a_stop(tmp_path: Path) -> None:
    """Write to broker, registry and database; kill each; read; stop, start, read again."""
    with Stack(home=tmp_path / "stack", ports=Ports.free(), ephemeral=True) as stack:
        names = ("kafka", "registry", "postgres")
        stack.start(names)
        make_topic(stack.bootstrap, "kept")
        produce(stack.bootstrap, "kept", b"1")
        ident = call(f"{stack.registry_url}/subjects/kept-value/versions", record("a"))["id"]
        asyncio.run(query(stack.postgres_dsn, "create table kept as select 7 as x"))
        for name in names:
            stack.kill(name)
        stack.wait_ready(60)
        produce(stack.bootstrap, "kept", b"2")
        stack.stop()
        stack.start(names)
        assert read_all(stack.bootstrap, "kept", 2) == [b"1", b"2"]
        assert call(f"{stack.registry_url}/subjects/kept-value/versions/1")["id"] == ident
        assert asyncio.run(query(stack.postgres_dsn, "select x from kept"))[0]["x"] == 7


def test_a_second_stack_on_the_same_ports_is_refused_and_the_first_runs_on(stack: Stack, tmp_path: Path) -> None:
    other = Stack(home=tmp_path, ports=stack.settings.ports)
    with pytest.raises(LauncherError, match=rf"port taken: {stack.settings.ports.kafka} \(kafka\) is held by java"):
        other.start(INFRASTRUCTURE)
    stack.wait_ready(1)
