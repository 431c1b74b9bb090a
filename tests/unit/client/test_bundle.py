"""The support bundle: what is in it, and that planted secrets are not."""

from __future__ import annotations

import json
import tarfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.client import bundle
from headrace.client.bundle import LOG_LINES, tail
from headrace.client.local_stack import SERVICES
from headrace.client.standing import SILENT, Places, Service, Standing

PASSWORD, TOKEN, API_KEY = "tr0ub4dor&3/x", "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.U2lnbmVkQnlBZGE", "pd-integration-77ab12cd"
NOWHERE = ["--first-port", "1", "--bootstrap", "127.0.0.1:1", "--alertmanager", "http://127.0.0.1:1"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(file, the private key's base64 line) of a bundle made where secrets lie about, nobody answering."""
    home = tmp_path_factory.mktemp("home")
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()  # fmt: skip
    line = pem.splitlines()[1]
    for folder in ("logs", "run", "keys/private"):
        (home / folder).mkdir(parents=True)
    (home / "keys" / "private" / "svc-train.pem").write_text(pem)
    dsn = f"postgresql://headrace:{PASSWORD}@127.0.0.1:5432/headrace"
    env = {"HEADRACE_POSTGRES_DSN": dsn, "HEADRACE_HTTP_PORT": "18104", "AWS_SECRET_ACCESS_KEY": "not-even-looked-at"}
    (home / "run" / "spec.json").write_text(json.dumps([{"name": "svc-train", "env": env}]))
    (home / "local.toml").write_text("port_base = 21000\n")
    said = [f"line {n}" for n in range(LOG_LINES * 2)]
    said += [
        json.dumps({"event": "job_failed", "detail": f"cannot connect to {dsn}"}),
        f"password authentication failed: tried {PASSWORD}",
        f"authorization: Bearer {TOKEN}",
        f"loaded {pem!r}",
        f"half a key: {line[:40]}{line[40:]}",
        json.dumps({"event": "page_sent", "routing_key": API_KEY}),
    ]
    (home / "logs" / "svc-train.log").write_text("\n".join(said) + "\n")
    into = tmp_path_factory.mktemp("into")
    here = {"HEADRACE_WEBHOOK_TOKEN": TOKEN, "HEADRACE_POSTGRES_DSN": dsn}
    done = CliRunner().invoke(app, ["support", *NOWHERE, "--home", str(home), "--into", str(into)], env=here)
    assert done.exit_code == 1, done.output
    assert "no service answered, svc-ingest not at http://127.0.0.1:1" in done.output
    assert PASSWORD not in done.output
    (file,) = into.iterdir()
    return file, line


def _files(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        found = {name.split("/", 1)[1]: archive.extractfile(name) for name in archive.getnames()}
        return {name: body.read().decode() for name, body in found.items() if body is not None}


def test_planted_secrets_are_nowhere_in_the_bundle(packed: tuple[Path, str]) -> None:
    """Password in a connection string, token, private key whole and by its line, an integration key: names and contents."""
    file, line = packed
    whole = "\n".join(f"{name}\n{text}" for name, text in _files(file).items())
    for secret in (PASSWORD, "tr0ub4dor%263", TOKEN, line, line[:32], API_KEY, "not-even-looked-at", "BEGIN PRIVATE KEY"):
        assert secret not in whole, secret


def test_what_helps_is_in_it(packed: tuple[Path, str]) -> None:
    files = _files(packed[0])
    settings = json.loads(files["settings.json"])
    assert settings["svc-train"] == {"HEADRACE_HTTP_PORT": "18104", "HEADRACE_POSTGRES_DSN": "***"}
    assert settings["here"]["HEADRACE_WEBHOOK_TOKEN"] == "***"
    assert "polars" in json.loads(files["versions.json"])["libraries"]
    assert files["local.toml"] == "port_base = 21000\n"
    lines = files["logs/svc-train.log"].splitlines()
    assert len(lines) <= LOG_LINES
    assert "line 799" in lines
    assert "line 0" not in lines
    standing = json.loads(files["standing.json"])
    assert [one["ready"] for one in standing["services"]] == [False] * 7
    assert standing["services"][0]["url"] == "http://127.0.0.1:1"


def test_what_did_not_answer_is_named_in_the_bundle(packed: tuple[Path, str]) -> None:
    told = _files(packed[0])["READ-ME.txt"]
    for part in ("lag:", "alerts:", "parked:", "topics:", "pipelines:"):
        assert part in told.partition("Not to be had:")[2]


def test_only_its_owner_reads_it_and_nothing_is_left_beside_it(packed: tuple[Path, str]) -> None:
    file = packed[0]
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_the_tail_of_a_log_is_its_last_lines_whatever_bytes_it_holds(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"a\n\xff\xfe\nb\n")
    assert tail(log, 2).splitlines()[-1] == "b"
    assert len(tail(log, 2).splitlines()) == 2


@pytest.mark.parametrize(("state", "code"), [("", 0), ("parked", 0), (SILENT, 1)])
def test_it_ends_with_1_only_where_no_service_answers(
    state: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(places: Places, now_s: float) -> Standing:
        return Standing(
            [Service(name, places.url(name), state=SILENT) for name in SERVICES[1:]] + [Service("x", "", state=state)]
        )

    monkeypatch.setattr(bundle, "standing", found)
    done = CliRunner().invoke(app, ["support", *NOWHERE, "--home", str(tmp_path), "--into", str(tmp_path / "into")])
    assert done.exit_code == code, done.output
    assert ("no service answered" in done.output) == bool(code)
    (file,) = (tmp_path / "into").iterdir()
    ignored = (Path(__file__).parents[3] / ".gitignore").read_text().split()
    assert any(fnmatch(file.name, pattern) for pattern in ignored)
