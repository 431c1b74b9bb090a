"""The operator's commands against a platform that runs."""

from __future__ import annotations

import tarfile
from pathlib import Path

from typer.testing import CliRunner

from headrace.cli.main import app
from headrace_demo.board import Board
from headrace_local import Stack


def test_the_day_two_commands_stand_on_a_platform_that_runs(platform: Stack, played: Board, tmp_path: Path) -> None:
    """Status sees seven ready services and the broker's lag; the topics are as declared; the bundle holds what it says."""
    ports = platform.settings.ports
    places = ["--first-port", str(ports.svc_ingest), "--bootstrap", platform.bootstrap]
    wide = {"COLUMNS": "200"}
    told = CliRunner().invoke(app, ["status", *places, "--alertmanager", "http://127.0.0.1:9"], env=wide)
    assert told.exit_code == 0, told.output
    for words in ("svc-governance", "no Alertmanager answers", "flights/scheduled", "parked", "flights-departures"):
        assert words in told.output, told.output
    checked = CliRunner().invoke(
        app, ["topics", "check", "--bootstrap", platform.bootstrap, "--url", platform.url("svc-governance")], env=wide
    )
    assert checked.exit_code == 0, checked.output
    packed = CliRunner().invoke(
        app, ["support", *places, "--home", str(platform.layout.home), "--into", str(tmp_path)], env=wide
    )
    assert packed.exit_code == 0, packed.output
    (bundle,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(bundle) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
        read = b"".join(file.read() for name in archive.getnames() if (file := archive.extractfile(name)))
    expected = {"READ-ME.txt", "settings.json", "standing.json", "topics.json", "logs/svc-serve.log", "metrics/svc-stream.txt"}
    assert expected <= names, names
    for key in (platform.layout.keys / "private").glob("*.pem"):
        lines = [line for line in key.read_text().splitlines() if not line.startswith("---")]
        assert all(line.encode() not in read for line in lines), key.name
    assert b"PRIVATE KEY" not in read
