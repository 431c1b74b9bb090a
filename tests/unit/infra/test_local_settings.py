"""Ports, folders and settings of the local stack."""

from __future__ import annotations

import socket
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_local.errors import LauncherError
from headrace_local.settings import COMPONENTS, Layout, Ports, can_bind, load_settings


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "local.toml").ports == Ports()


def test_single_ports_are_stronger_than_the_base(tmp_path: Path) -> None:
    path = tmp_path / "local.toml"
    path.write_text('port_base = 21000\nlog_level = "debug"\n[ports]\nkafka = 19999\n')
    settings = load_settings(path)
    assert (settings.ports.kafka, settings.ports.kafka_controller, settings.log_level) == (19999, 21001, "debug")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port_bass = 1", "unknown settings in .*port_bass"),
        ("[ports]\nsvc_kafka = 20000", r"unknown settings in .*ports\.svc_kafka"),
        ("port_base = 80", "port_base = 80 .* is not a port"),
        ("[ports]\nkafka = '9092'", "kafka = '9092' .* is not a port"),
        ("[ports]\nkafka = 19093", "port 19093 is given to two listeners"),
        ("port_base = ", "is not valid TOML"),
    ],
)
def test_a_wrong_setting_is_refused_and_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "local.toml"
    path.write_text(text)
    with pytest.raises(LauncherError, match=says) as caught:
        load_settings(path)
    assert caught.value.hint


@given(st.integers(1024, 65000))
def test_a_base_gives_every_listener_a_port_of_its_own(base: int) -> None:
    ports = Ports.from_base(base)
    every = [port for name in COMPONENTS for port in ports.all_of(name)]
    assert len(set(every)) == len(every) == len(asdict(ports))
    assert min(every) == base


def test_a_held_port_is_seen_as_taken_and_a_released_one_as_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not can_bind(port)
    assert can_bind(port)


def test_everything_a_stack_writes_lies_in_its_home_and_fetched_files_in_the_clone(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path / "clone", tmp_path / "home")
    written = [layout.logs, layout.run, layout.data, layout.state, layout.objects, layout.keys, layout.reports]
    assert all(folder.is_relative_to(tmp_path / "home") for folder in written)
    assert layout.dist.is_relative_to(tmp_path / "clone")
