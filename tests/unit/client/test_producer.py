"""A producer that is not ours, and a registry that takes the question and never answers."""

from __future__ import annotations

import socket

import pytest

from headrace.client import producer

try:  # Confluent's client uses the one it finds, and lets its errors through
    from httpx2 import TimeoutException
except ImportError:
    from httpx import TimeoutException


def test_a_registry_that_never_answers_is_given_up_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "REGISTRY_PATIENCE", {"timeout": 0.05, "max.retries": 1, "retries.wait.ms": 1})
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TimeoutException):
            producer.publish("127.0.0.1:1", url, "flights.arrivals.v1", "flight_id", [{"flight_id": "UA1"}])
