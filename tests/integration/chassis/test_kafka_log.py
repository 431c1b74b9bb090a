"""What librdkafka has to say goes into the service's log, never to stderr. A broker that refuses is enough to hear it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from support.source import ROOT

# Each makes one client of a closed port, lets it speak, and gives it back; nothing is asserted about time.
CLIENTS = {
    "admin": "bus.admin().partitions('t')",
    "consumer": "c = bus.consumer(None, 'c'); c.assign({TopicPartition('t', 0): 0}); c.consume(1, 0.5)",
    "producer": "p = bus.producer('p'); p.produce('t', b'v'); p.flush(0.5)",
}
SCRIPT = """
import sys
from headrace.chassis import admin_confluent, bus_confluent
from headrace.chassis.bus import TopicPartition
from headrace.chassis.errors import HeadraceError
from headrace.chassis.logs import configure_logs
admin_confluent.CALL_TIMEOUT_S = bus_confluent.CALL_TIMEOUT_S = 0.5
if {configured}:
    configure_logs("svc-test", "0", "info")
bus = bus_confluent.ConfluentBus("127.0.0.1:1")
try:
    {call}
except HeadraceError as error:
    print("raised", type(error).__name__)
"""


def said(client: str, configured: bool) -> tuple[list[str], str]:
    """Lines on stdout, and stderr, of a process of its own."""
    script = SCRIPT.replace("{configured}", str(configured)).replace("{call}", CLIENTS[client])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True,
        env={"PYTHONPATH": str(ROOT / "schemas" / "src")},
    )  # fmt: skip
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_speaks_json_in_a_service(client: str) -> None:
    lines, stderr = said(client, configured=True)
    assert stderr == ""
    spoken = [json.loads(line) for line in lines if line.startswith("{")]
    assert {line["logger"] for line in spoken} == {"headrace.kafka"}
    assert any("Connection refused" in json.dumps(line) for line in spoken)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_silent_in_a_command_which_raises_what_matters(client: str) -> None:
    lines, stderr = said(client, configured=False)
    assert stderr == ""
    assert all(line.startswith("raised ") for line in lines)
