"""Imports run one way, domain and plan are pure, and every file is reached from somewhere."""

from __future__ import annotations

import ast
import sys

import pytest

from support.source import ROOT, SERVICES, Module, imports, modules, qualified

# Which rooms of headrace each room may import. client and cli stand on top.
ROOMS = {
    "contracts": {"contracts"},
    "plan": {"contracts", "plan"},
    "declare": {"contracts", "plan", "declare"},
    "testing": {"contracts", "plan", "declare", "testing"},
    "chassis": {"contracts", "chassis"},
    "client": {"contracts", "plan", "declare", "chassis", "client"},
    "cli": {"contracts", "plan", "declare", "chassis", "client", "cli"},
}
SERVICE_ROOMS = {"contracts", "plan", "chassis"}
# Inside a service, domain <- handlers <- app -> adapters with ports between: rooms that each room may not import.
# domain may import nothing of its service but domain.
FORBIDDEN = {
    "ports": {"handlers", "adapters", "app"},
    "handlers": {"adapters", "app"},
    "adapters": {"handlers", "app"},
}
# What computes, beside the standard library.
COMPUTING = {"numpy", "polars", "pyarrow", "duckdb", "sqlglot", "rfc8785", "orjson", "scipy", "torch", "xgboost", "onnx"}
# What a pure module has no use for, though the standard library has it.
IMPURE_STDLIB = {
    "asyncio", "http", "logging", "multiprocessing", "os", "pickle", "random", "secrets", "shutil", "signal", "socket",
    "socketserver", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "time", "urllib",
}  # fmt: skip
BANNED_CALLS = {
    "time.time", "time.time_ns", "time.monotonic", "time.sleep", "datetime.datetime.now", "datetime.datetime.utcnow",
    "datetime.datetime.today", "datetime.date.today", "os.environ", "os.getenv", "uuid.uuid1", "uuid.uuid4",
    "numpy.random.rand", "numpy.random.seed",
    "numpy.random.random", "numpy.random.randint", "numpy.random.normal", "numpy.random.shuffle",
}  # fmt: skip
SERVICE_PACKAGES = {f"svc_{name}" for name in SERVICES}


def _is_pure(module: Module) -> bool:
    return module.name.startswith("headrace.plan.") or (module.package in SERVICE_PACKAGES and module.room == "domain")


ALL = [pytest.param(module, id=module.name) for module in modules()]
PURE = [pytest.param(module, id=module.name) for module in modules() if _is_pure(module) and not module.is_package]


def _allowed(module: Module, name: str) -> bool:
    parts = name.split(".")
    if parts[0] == "headrace" and len(parts) > 1:
        if module.package == "headrace":
            return not module.room or parts[1] in ROOMS.get(module.room, set()) or len(parts) == 2
        return parts[1] in SERVICE_ROOMS
    if parts[0] in SERVICE_PACKAGES:
        if parts[0] != module.package:
            return False
        room = parts[1] if len(parts) > 1 else ""
        return room == "domain" if module.room == "domain" else room not in FORBIDDEN.get(module.room, set())
    return True


@pytest.mark.parametrize("module", ALL)
def test_no_import_points_back(module: Module) -> None:
    """contracts <- plan <- declare; contracts <- chassis; services import contracts, plan and chassis, never each other."""
    wrong = [f"{module.where}:{line} imports {name}" for name, line in imports(module) if not _allowed(module, name)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_what_computes_and_nothing_that_acts(module: Module) -> None:
    own = {"headrace", module.package, "__future__"}
    free = (set(sys.stdlib_module_names) - IMPURE_STDLIB) | COMPUTING | own
    wrong = [f"{module.where}:{line} imports {name}" for name, line in imports(module) if name.split(".")[0] not in free]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_read_no_clock_no_dice_and_no_environment(module: Module) -> None:
    wrong = [f"{module.where}:{node.lineno} uses {name}" for node, name in qualified(module) if name in BANNED_CALLS]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ALL)
def test_nothing_runs_a_shell_or_loads_a_pickle(module: Module) -> None:
    """Bytes from elsewhere are data, whoever sent them."""
    banned = {"pickle.loads", "pickle.load", "marshal.loads", "os.system", "joblib.load", "yaml.load", "builtins.eval"}
    wrong = [f"{module.where}:{node.lineno} uses {name}" for node, name in qualified(module) if name in banned]
    wrong += [
        f"{module.where}:{node.lineno} calls {node.func.id}"
        for node in ast.walk(ast.parse(module.path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}
    ]
    assert not wrong, "\n".join(wrong)


def _entries() -> set[str]:
    """What is run by name: services, console scripts, the generators."""
    entries = {m.name for m in modules() if m.name.endswith("__main__")} | {
        "headrace.contracts.generate",
        "headrace.plan.expression_reference",
    }
    for file in ROOT.glob("*/pyproject.toml"):
        for line in file.read_text().splitlines():
            _, _, target = line.partition(" = ")
            if ":" in target and target.startswith(('"headrace', '"svc_')):
                entries.add(target.strip('"').partition(":")[0])
    return entries


# What the chassis offers and only tests run on: the bus in memory, on which any handler can be tested without a broker.
OFFERED = ("headrace.chassis.bus_memory",)


def test_every_file_is_reached() -> None:
    """Goal: no code that nothing uses. Method: imports followed from what is run and from what users import."""
    if any(not (ROOT / f"svc-{name}/src/svc_{name}/app.py").exists() for name in SERVICES):
        pytest.skip("not every service is here yet")
    known = {m.name: m for m in modules()}
    todo = [*_entries(), *OFFERED, "headrace", "headrace.declare", "headrace.testing"] + [
        m.name for m in modules() if m.name.startswith("headrace.client")
    ]
    todo += [name for path in (ROOT / "schemas/pipelines").rglob("*.py") for name in _imported_by(path.read_text())]
    todo += [name for path in (ROOT / "infra").rglob("*.py") for name in _imported_by(path.read_text())]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        module = known.get(name) or known.get(name.rpartition(".")[0])
        if module is None or module.name in seen:
            continue
        seen.add(module.name)
        todo += [target for target, _ in imports(module)]
        todo += [".".join(module.parts[:i]) for i in range(1, len(module.parts))]
    lost = [m.where for m in modules() if m.name not in seen and not m.is_package]
    assert not lost, "reached by nothing: " + ", ".join(lost)


def _imported_by(text: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_the_walk_sees_an_arrow_that_points_back() -> None:
    """The rules above must be able to fail."""
    plan = next(m for m in modules() if m.name == "headrace.plan.ir")
    contracts = next(m for m in modules() if m.name == "headrace.contracts.codec")
    assert not _allowed(contracts, "headrace.plan.ir.Plan")
    assert not _allowed(plan, "headrace.declare.Event")
    assert not _allowed(plan, "headrace.chassis.bus")
    assert _allowed(plan, "headrace.contracts.errors.Poison")
    serve = Module("svc_serve.domain.x", ROOT / "svc-serve/src/svc_serve/domain/x.py", False)
    assert not _allowed(serve, "svc_train.domain.fit")
    assert not _allowed(serve, "svc_serve.adapters.onnx")
    assert not _allowed(serve, "headrace.declare.Event")
