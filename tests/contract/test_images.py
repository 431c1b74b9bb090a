"""The seven images: Dockerfiles by the rules, locks that hold exactly what is imported, the same versions everywhere."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache

import pytest

from headrace_images import dockerfile, ignore
from headrace_images.rules import breaches
from support.source import ROOT, SERVICES, Module, modules

NAMES = [f"svc-{name}" for name in SERVICES]
# What an import is called in the index, where that is another name.
DISTRIBUTIONS = {
    "confluent_kafka": "confluent-kafka", "jwt": "pyjwt", "prometheus_client": "prometheus-client", "yaml": "pyyaml",
    "pydantic_settings": "pydantic-settings", "mlflow": "mlflow-skinny", "xgboost": "xgboost-cpu",
    "pydantic": "pydantic-settings",
    "opentelemetry.exporter.otlp": "opentelemetry-exporter-otlp-proto-http",
    "opentelemetry.exporter.zipkin": "opentelemetry-exporter-zipkin-json",
    "opentelemetry": "opentelemetry-sdk", "starlette": "fastapi",
    "httpx": "confluent-kafka", "httpx2": "confluent-kafka",  # what its registry client talks through
}  # fmt: skip
# Needed by name, not by an import of ours: uvicorn's parser; MLflow's SQL store; skl2onnx below onnxmltools; zones for
# DuckDB's times; XGBoost reads and writes through scipy and onnxmltools through onnx;
# the chassis measures RocksDB wherever it runs.
BY_NAME = {"httptools", "sqlalchemy", "alembic", "scikit-learn", "pytz", "tzdata", "scipy", "onnx", "rocksdict"}


def _lock(path: str) -> dict[str, str]:
    """Package to its whole block, version and hashes."""
    text = (ROOT / path).read_text()
    return {m[1]: m[0].strip() for m in re.finditer(r"^([a-z0-9._-]+)==.*?(?=^\S|\Z)", text, re.M | re.S)}


def _declared(service: str) -> set[str]:
    lines = (ROOT / service / "requirements.in").read_text().splitlines()
    return {re.split(r"[\[=<>]", line)[0] for line in lines if line and not line.startswith("#")}


def _file(service: str) -> dockerfile.Dockerfile:
    return dockerfile.read((ROOT / service / "Dockerfile").read_text())


@cache
def _runtime_imports(module: Module) -> set[str]:
    """Full names of what is imported when it runs: lazily too, but not for type checkers, nor for notebooks by the package."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(module.path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
            continue
        if module.name == "headrace" and isinstance(node, ast.FunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        todo += list(ast.iter_child_nodes(node))
    return found


@cache
def _imported(service: str) -> frozenset[str]:
    """Distributions that a service imports, itself and through schemas/."""
    known = {m.name: m for m in modules()}
    package = service.replace("-", "_")
    todo = [m.name for m in modules() if m.package == package]
    seen: set[str] = set()
    found: set[str] = set()
    while todo:
        name = todo.pop()
        module = known.get(name) or known.get(name.rpartition(".")[0])
        if module is None:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in {"headrace", package}:
                found.add(next((d for i, d in DISTRIBUTIONS.items() if f"{name}.".startswith(f"{i}.") and "." in i), "") or top)
            continue
        if module.name in seen:
            continue
        seen.add(module.name)
        todo += [*_runtime_imports(module), *(".".join(module.parts[:i]) for i in range(1, len(module.parts)))]
    return frozenset(DISTRIBUTIONS.get(name, name) for name in found)


@pytest.mark.parametrize("service", NAMES)
def test_a_dockerfile_keeps_the_rules(service: str) -> None:
    assert breaches(_file(service), service) == []


def test_the_seven_dockerfiles_differ_in_their_names_and_ports_only() -> None:
    """What is mended in one must be mended in all. svc-train has its variants, svc-ingest one more folder."""

    def plain(service: str) -> list[str]:
        port = _file(service).image.environment()["HEADRACE_HTTP_PORT"]
        text = (ROOT / service / "Dockerfile").read_text().replace(port, "PORT").replace("${VARIANT}", "")
        text = text.replace(service, "SVC").replace(service.replace("-", "_"), "SVC").replace(" /var/lib/headrace-drop", "")
        return [line for line in text.splitlines() if not line.startswith(("#", "ARG VARIANT"))]

    first = plain(NAMES[0])
    assert [name for name in NAMES if plain(name) != first] == []


@pytest.mark.parametrize("service", NAMES)
def test_what_is_copied_is_there_and_sent_to_the_build(service: str) -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    for stage in _file(service).stages:
        for variant in ("", "-gpu") if service == "svc-train" else ("",):
            for copy in stage.copies({"VARIANT": variant}):
                for source in copy.sources if copy.stage is None else ():
                    place = ROOT / source
                    files = [place] if place.is_file() else list(place.rglob("*.py"))
                    assert any(ignore.admits(patterns, p.relative_to(ROOT).as_posix()) for p in files), source


@pytest.mark.parametrize("service", NAMES)
def test_a_service_asks_for_what_it_imports_and_nothing_else(service: str) -> None:
    """Both ways, over all that is reachable from its modules, imports inside functions included."""
    declared = _declared(service)
    assert _imported(service) - declared == set(), "imported, not asked for in requirements.in"
    assert declared - _imported(service) - BY_NAME == set(), "asked for in requirements.in, never imported"


@pytest.mark.parametrize("service", NAMES)
def test_a_lock_is_a_part_of_the_one_everything_is_tested_with(service: str) -> None:
    """The same version and the same hashes, byte for byte, and everything asked for is in it."""
    own, lean = _lock(f"{service}/requirements.lock"), _lock("infra/requirements/lean.lock")
    assert {name for name, block in own.items() if lean.get(name) != block} == set()
    assert _declared(service) - set(own) == set()
    assert all("--hash=sha256:" in block for block in own.values())


def test_the_lock_of_the_gpu_variant_differs_in_xgboost_alone() -> None:
    plain, gpu = _lock("svc-train/requirements.lock"), _lock("svc-train/requirements-gpu.lock")
    assert set(plain) - set(gpu) == {"xgboost-cpu"}
    assert set(gpu) - set(plain) == {"xgboost", "nvidia-nccl-cu12"}
    assert [name for name in set(plain) & set(gpu) if plain[name] != gpu[name]] == []
    version = re.search(r"==(\S+)", plain["xgboost-cpu"])
    assert version is not None
    assert gpu["xgboost"].startswith(f"xgboost=={version[1]} ")


@pytest.mark.parametrize("path", [f"{name}/requirements.lock" for name in NAMES] + ["svc-train/requirements-gpu.lock"])
def test_a_lock_names_no_index(path: str) -> None:
    assert "://" not in (ROOT / path).read_text()


def test_the_walk_sees_an_import_that_nobody_asked_for() -> None:
    """The rule above must be able to fail."""
    assert "duckdb" in _imported("svc-features")
    assert "duckdb" not in _imported("svc-stream")
    assert {name for name in NAMES if "asyncpg" in _imported(name)} == {"svc-train"}
