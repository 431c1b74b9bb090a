"""The source tree as data: modules, what they import, what they call. For tests that hold the house to its rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("ingest", "stream", "features", "train", "serve", "monitor", "governance")


@dataclass(frozen=True)
class Module:
    """One file. `room` is the first name below the package: headrace.plan.ir is in plan, svc_train.domain.fit in domain."""

    name: str
    path: Path
    is_package: bool

    @property
    def parts(self) -> list[str]:
        return self.name.split(".")

    @property
    def package(self) -> str:
        return self.parts[0]

    @property
    def room(self) -> str:
        return self.parts[1] if len(self.parts) > 1 else ""

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of headrace and of the seven services."""
    found: list[Module] = []
    for src in (ROOT / "schemas/src", *(ROOT / f"svc-{name}/src" for name in SERVICES)):
        for path in sorted(src.rglob("*.py")):
            if "template" in path.parts:
                continue  # what `headrace new` copies: a user's files, not modules of ours
            parts = list(path.relative_to(src).with_suffix("").parts)
            is_package = parts[-1] == "__init__"
            found.append(Module(".".join(parts[:-1] if is_package else parts), path, is_package))
    return tuple(found)


@cache
def tree(module: Module) -> ast.Module:
    return ast.parse(module.path.read_text(), filename=str(module.path))


@cache
def imports(module: Module) -> tuple[tuple[str, int], ...]:
    """(full name of what is imported, line): modules, or names in modules, as `a.b.name`."""
    return tuple(_imports(module))


def _imports(module: Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.parts if module.is_package else module.parts[:-1]
                base = ".".join([*up[: len(up) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain, "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def qualified(module: Module) -> Iterator[tuple[ast.expr, str]]:
    """Attribute chains and names with the import they start from: `now` of `from datetime import datetime as d` is
    `datetime.datetime.now`.
    """
    known: dict[str, str] = {}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            known |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom) and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute | ast.Name):
            text = dotted(node)
            head, _, rest = text.partition(".")
            if head in known:
                yield node, f"{known[head]}.{rest}" if rest else known[head]
