"""Dockerfiles read as data, .dockerignore, what the installer plays, and the secrets of compose."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_images import dockerfile, ignore, secrets
from headrace_images.assemble import NotPlayed, assemble, tree_bytes
from headrace_images.cells import foreign
from headrace_images.rules import breaches

GOOD = """
# comment
FROM python:3.11.14-slim-bookworm AS build
ARG VARIANT=""
RUN python -m venv --without-pip /opt/venv
COPY svc-x/requirements${VARIANT}.lock /build/requirements.lock
RUN python -m pip --python /opt/venv/bin/python install --no-cache-dir \\
      --only-binary=:all: --no-deps --require-hashes -r /build/requirements.lock
COPY schemas/src /opt/headrace/schemas/src
COPY svc-x/src /opt/headrace/svc-x/src
FROM python:3.11.14-slim-bookworm
COPY --from=build /opt /opt
ENV PATH=/opt/venv/bin:/usr/bin \\
    HEADRACE_HTTP_PORT=18199
WORKDIR /var/lib/headrace
VOLUME ["/var/lib/headrace"]
USER 10001:10001
EXPOSE 18199
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s CMD ["python", "-c", "ask HEADRACE_HTTP_PORT /health/live"]
ENTRYPOINT ["python", "-m", "svc_x"]
"""


def test_stages_copies_and_environment_are_read_with_continuations_joined() -> None:
    file = dockerfile.read(GOOD)
    build, image = file.stages
    assert (build.name, image.name) == ("build", "")
    assert next(copy.sources for copy in build.copies({"VARIANT": "-gpu"})) == ("svc-x/requirements-gpu.lock",)
    assert next(copy.sources for copy in build.copies()) == ("svc-x/requirements.lock",)
    assert image.copies()[0].stage == "build"
    assert image.environment() == {"PATH": "/opt/venv/bin:/usr/bin", "HEADRACE_HTTP_PORT": "18199"}
    entry = image.last("ENTRYPOINT")
    assert entry is not None
    assert entry.arguments == ["python", "-m", "svc_x"]


@pytest.mark.parametrize("text", ["RUN x", "FROM a:1\nMAINTAINER me", "FROM a:1\nRUN x \\", "", "FROM a:1\nENV A b"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(dockerfile.NotRead):
        dockerfile.read(text).image.environment()


def test_a_file_by_the_rules_breaks_none() -> None:
    assert breaches(dockerfile.read(GOOD), "svc-x") == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("python:3.11.14-slim-bookworm AS", "python:3.11 AS", "pinned"),
        ("python:3.11.14-slim-bookworm AS", "python:latest AS", "pinned"),
        ("COPY schemas/src", "COPY svc-y/src", "copies only"),
        ("COPY schemas/src", "COPY .", "copies only"),
        ("COPY schemas/src", "COPY schemas/../infra", "copies only"),
        ("COPY schemas/src", "ADD schemas/src", "no ADD"),
        ("--require-hashes ", "", "--require-hashes"),
        ("--no-deps ", "", "--no-deps"),
        ("-r /build", "--index-url https://x.example -r /build", "index address"),
        ("RUN python -m venv", "RUN apt-get install -y x && python -m venv", "nothing fetched"),
        ("USER 10001:10001", "USER root", "numeric id"),
        ("USER 10001:10001", "USER 0:0", "numeric id"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "SIGTERM"),
        ('["python", "-m", "svc_x"]', "python -m svc_x", "no shell"),
        ("/health/live", "/health", "HEALTHCHECK"),
        ("EXPOSE 18199", "EXPOSE 80", "exposes"),
        ("WORKDIR /var/lib/headrace", "WORKDIR /opt", "writes below"),
        ("HEADRACE_HTTP_PORT=18199", "HEADRACE_HTTP_PORT=18199 HEADRACE_POSTGRES_DSN=postgresql://x", "no secret"),
    ],
)
def test_each_breach_is_told(old: str, new: str, rule: str) -> None:
    """Every rule must be able to fail, alone."""
    assert old in GOOD
    found = breaches(dockerfile.read(GOOD.replace(old, new)), "svc-x")
    assert any(rule in one for one in found), found


@pytest.mark.parametrize(
    ("path", "admitted"),
    [
        ("schemas/src/headrace/a.py", True),
        ("schemas/src/headrace/__pycache__/a.pyc", False),
        ("schemas/avro/a.avsc", False),
        ("svc-x/src/svc_x/app.py", True),
        ("svc-x/requirements.lock", True),
        ("svc-x/requirements-gpu.lock", True),
        ("svc-x/README.md", False),
        ("infra/compose/secrets/keys/private/ada.pem", False),
        (".headrace/keys/private/ada.pem", False),
        ("README.md", False),
    ],
)
def test_the_build_sees_what_an_image_may_be_made_of_and_no_more(path: str, admitted: bool) -> None:
    lines = (Path(__file__).parents[3] / ".dockerignore").read_text().splitlines()
    assert ignore.admits(lines, path) is admitted


def test_an_instruction_nobody_tried_is_not_played(tmp_path: Path) -> None:
    (tmp_path / "svc-x").mkdir()
    (tmp_path / ".dockerignore").write_text("")
    (tmp_path / "svc-x" / "Dockerfile").write_text(
        "FROM a:1.2.3 AS build\nRUN rm -rf /opt\nFROM a:1.2.3\nCOPY --from=build /opt /opt\n"
    )
    with pytest.raises(NotPlayed, match="rm -rf"):
        assemble(tmp_path, "svc-x", tmp_path / "out")


def test_copying_what_the_build_does_not_see_is_refused(tmp_path: Path) -> None:
    (tmp_path / "schemas" / "src").mkdir(parents=True)
    (tmp_path / "schemas" / "src" / "a.py").write_text("x = 1\n")
    (tmp_path / "svc-x").mkdir()
    (tmp_path / ".dockerignore").write_text("*\n")
    (tmp_path / "svc-x" / "Dockerfile").write_text("FROM a:1.2.3\nCOPY schemas/src /opt/headrace/schemas/src\n")
    with pytest.raises(NotPlayed, match="dockerignore"):
        assemble(tmp_path, "svc-x", tmp_path / "out")


def test_a_library_from_neither_the_image_nor_its_base_is_told() -> None:
    mapped = ["/usr/lib/x86_64-linux-gnu/libc.so.6", "/opt/venv/lib/a/libx.so.1", "/usr/lib/x86_64-linux-gnu/libgomp.so.1.0.0"]
    assert foreign(mapped) == ["libgomp.so.1.0.0"]


def test_secrets_are_made_once_and_only_their_owner_passes(tmp_path: Path) -> None:
    roles = tmp_path / "roles.json"
    roles.write_text("{}")
    folder = tmp_path / "secrets"
    made = secrets.make(folder, roles)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert secrets.make(folder, roles) == []
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert "postgres-password" in made
    assert folder.stat().st_mode & 0o777 == 0o700
    password = (folder / "postgres-password").read_text()
    assert f":{password}@postgres:5432/" in (folder / "svc-train.env").read_text()
    assert len({(folder / name).read_text() for name in ("postgres-password", "grafana-password")}) == 2
    assert tree_bytes(folder) > 0
