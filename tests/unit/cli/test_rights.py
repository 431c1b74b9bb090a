"""`headrace rights list`: what a person, or Kafka's own tool, is told."""

from __future__ import annotations

import shlex
from pathlib import Path

from typer.testing import CliRunner

from headrace.chassis.grants_confluent import kafka_commands
from headrace.cli.main import app
from headrace.contracts.grants import Grant, platform_grants

FLIGHTS = str(Path(__file__).parents[3] / "schemas" / "pipelines" / "flights")


def listed(*arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["rights", "list", *arguments])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_one_command_of_kafkas_own_tool_per_right() -> None:
    lines = listed("--commands")
    assert len(lines) == len(set(lines)) == len(platform_grants())
    assert all(shlex.split(line)[:3] == ["kafka-acls", "--add", "--allow-principal"] for line in lines)


def test_kafkas_words_for_every_kind_of_right() -> None:
    grants = [
        Grant("svc-stream", "READ", "topic", "a.b.v1"),
        Grant("svc-stream", "WRITE", "transactional-id", "svc-stream.", prefixed=True),
        Grant("operator", "DESCRIBE_CONFIGS", "topic", "*"),
        Grant("svc-governance", "ALTER", "cluster", "kafka-cluster"),
    ]
    assert kafka_commands(grants) == [
        "kafka-acls --add --allow-principal User:svc-stream --operation Read --topic 'a.b.v1'",
        "kafka-acls --add --allow-principal User:svc-stream --operation Write --transactional-id 'svc-stream.'"
        " --resource-pattern-type prefixed",
        "kafka-acls --add --allow-principal User:operator --operation DescribeConfigs --topic '*'",
        "kafka-acls --add --allow-principal User:svc-governance --operation Alter --cluster",
    ]


def test_a_declarations_rights_are_shown_without_a_broker_and_of_one_principal_if_asked() -> None:
    lines = listed(FLIGHTS, "--principal", "producer", "--commands")
    assert lines
    assert all("User:producer" in line and "--operation Write" in line for line in lines)
    assert any("flights.departures.v1" in line for line in lines)
