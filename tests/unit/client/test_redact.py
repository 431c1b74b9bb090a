"""What a redactor takes out, and what it leaves."""

from __future__ import annotations

import base64
import json
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.client.redact import BLANK, Redactor, is_secret, known_secrets

words = st.text(alphabet=string.ascii_letters + string.digits + " @:/'\"\\%+é", min_size=6, max_size=30).map(str.strip).filter(
    lambda text: len(text) >= 4
)  # fmt: skip


@given(words)
def test_a_known_secret_is_gone_in_every_spelling(secret: str) -> None:
    redactor = Redactor([secret])
    for spelt in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()):
        assert spelt not in redactor.text(f"<{spelt}> and <{spelt}>")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://headrace:s3cr3t-pw@db:5432/headrace",
        "amqp://u:s3cr3t-pw@h/v and more",
        "host=db user=headrace password=s3cr3t-pw dbname=x",
        "host=db password='s3cr3t-pw' dbname=x",
        '{"postgres_dsn": "postgresql://u:s3cr3t-pw@db/x", "n": 1}',
        '{"outer": "{\\"password\\": \\"s3cr3t-pw\\"}"}',
        "{'sasl_password': 's3cr3t-pw'}",
        "Authorization: Bearer s3cr3t-pw",
        "authorization: GenieKey s3cr3t-pw",
        'sasl.jaas.config=x required password="s3cr3t-pw";',
        "HEADRACE_WEBHOOK_TOKEN=s3cr3t-pw",
        "api_key: s3cr3t-pw",
        '{"token": 9182736455463728}',
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl-s3cr3t-pw",
        "AKIAIOSFODNN7EXAMPLE",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAws3cr3t-pw\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\\nMC4CAQAws3cr3t-pw",
        "MC4CAQAwBQYDK2VwBCIEIJ\nAAAABBBBCCCCDDDD\n-----END PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_blanked_without_being_known(text: str) -> None:
    found = Redactor().text(text)
    for secret in ("s3cr3t-pw", "9182736455463728", "AKIAIOSFODNN7EXAMPLE", "AAAABBBBCCCCDDDD", "MC4CAQAw"):
        assert secret not in found
    assert BLANK in found


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:18081/apis/ccompat/v7",
        '{"event": "plan_applied", "pipeline": "flights", "topic": "flights.departures.v1"}',
        "consumer_records_total{topic=\"flights.departures.v1\",group=\"svc-stream\"} 12.0",
        "HEADRACE_KEY_FILE is /keys/private/svc-train.pem",
        "2026-11-23T01:00:00Z took 3 ms, 12:30:01 at host:9092",
    ],
)  # fmt: skip
def test_what_helps_is_left(text: str) -> None:
    assert Redactor().text(text) == text


def test_json_stays_json() -> None:
    body = {"a": {"password": 'p"w\\', "token": 7, "ok": "postgresql://u:p@h/d", "list": [{"secret": "x y"}]}, "z": "end"}
    found = json.loads(Redactor(["p@h"]).text(json.dumps(body, indent=2)))
    assert found["a"]["password"] == found["a"]["token"] == found["a"]["list"][0]["secret"] == BLANK
    assert found["z"] == "end"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HEADRACE_POSTGRES_DSN", True), ("HEADRACE_SASL_PASSWORD", True), ("HEADRACE_S3_SECRET_ACCESS_KEY", True),
        ("HEADRACE_KEY_FILE", False), ("HEADRACE_SASL_PASSWORD_FILE", False), ("HEADRACE_BOOTSTRAP", False),
        ("HEADRACE_TRUSTED_KEYS", False), ("HEADRACE_TOKEN_URL", False),
    ],
)  # fmt: skip
def test_names_say_whether_a_setting_is_a_secret(name: str, secret: bool) -> None:
    assert is_secret(name) is secret


def test_secrets_are_known_from_settings_from_files_they_name_and_from_folders_of_keys(tmp_path: Path) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ0123456789\n-----END PRIVATE KEY-----\n"
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "ada.pem").write_text(pem)
    (tmp_path / "keys" / "ada.pub").write_text(
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAabcdefgh\n-----END PUBLIC KEY-----\n"
    )
    (tmp_path / "pw").write_text("from-a-file\n")
    settings = {
        "HEADRACE_POSTGRES_DSN": "postgresql://u:p%40ss@db/x",
        "HEADRACE_SASL_PASSWORD_FILE": str(tmp_path / "pw"),
        "HEADRACE_ZIPKIN_URL": "http://z:in-a-url@zipkin",
        "HEADRACE_BOOTSTRAP": "kafka:9092",
    }
    found = known_secrets(settings, [tmp_path / "keys"])
    assert {"p%40ss", "p@ss", "from-a-file", "in-a-url", "MC4CAQAwBQYDK2VwBCIEIJ0123456789"} <= found
    assert "kafka:9092" not in found
    assert not any("MCowBQYDK2VwAyEAabcdefgh" in secret for secret in found), "public keys are no secrets"


def test_settings_keep_their_names_and_lose_their_secrets() -> None:
    given = {"HEADRACE_POSTGRES_DSN": "postgresql://u:pw@db/x", "HEADRACE_BOOTSTRAP": "k:9092", "HEADRACE_SASL_PASSWORD": ""}
    assert Redactor().settings(given) == {
        "HEADRACE_BOOTSTRAP": "k:9092", "HEADRACE_POSTGRES_DSN": BLANK, "HEADRACE_SASL_PASSWORD": "",
    }  # fmt: skip
