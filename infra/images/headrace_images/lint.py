"""`make lint-infra`: what others' tools say of Dockerfiles, compose files and manifests.

    hadolint                               the seven Dockerfiles
    the published schema of compose        each layer
    compose's own loader (Go module)       the layers one on top of the other: names, references, merges
    kustomize build                        base and both overlays; built by Go, once
    the published schemas of Kubernetes    what came out, strictly: an unknown field is an error
    KEDA's own definition (Go module)      the ScaledObjects, as strictly

The tools lie in .headrace/tools, pinned: wheels by infra/requirements/manifests.lock, Go modules by version and Go's checksum
database. Without Go the overlays are not rendered; it is said, and the exit code is 2.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

import bootstrap
from headrace_images import secrets
from headrace_images.assemble import base_python, installer
from headrace_local import clone_root

KUSTOMIZE = ("sigs.k8s.io/kustomize/kustomize/v5", "v5.6.0")
COMPOSE = ("github.com/compose-spec/compose-go/v2/cmd", "v2.8.1")
LAYERS = (("core",), ("core", "full"), ("core", "full", "observability"), ("core", "full", "observability", "gpu"))
KEDA = ("github.com/kedacore/keda/v2", "v2.17.2")
KUBERNETES = ("1.31", "1.34")  # the oldest and the newest these manifests are for
ROOMS = ("base", "overlays/laptop", "overlays/production")


def main() -> int:
    """0 nothing to say, 1 something is wrong, 2 not everything could be asked."""
    root = clone_root()
    tools = root / ".headrace" / "tools"
    venv = _environment(root, tools / "manifests")
    failed = [
        f"hadolint {path.parent.name}" for path in sorted(root.glob("svc-*/Dockerfile")) if not _ask(venv, "hadolint", path)
    ]
    for layer in sorted((root / "infra" / "compose").glob("*.yaml")):
        if not _ask(venv, "check-jsonschema", "--builtin-schema", "vendor.compose-spec", layer):
            failed.append(f"compose schema {layer.name}")
    go = shutil.which("go")
    if go is not None:
        failed += [*_composed(root, tools, go), *_manifests(root, tools, venv, go)]
    print("failed: " + ", ".join(failed) if failed else "Dockerfiles and compose files are as their schemas say")
    if go is None:
        print("not asked: merged layers and manifests; their tools are built by Go, which is not here", file=sys.stderr)
    return 1 if failed else 0 if go else 2


def _composed(root: Path, tools: Path, go: str) -> list[str]:
    """Layers that compose's own loader refuses together. It wants the secrets to be there: a set is made beside a copy."""
    program, folder = _built(tools, go, *COMPOSE, "cmd"), tools / "compose"
    folder.mkdir(exist_ok=True)
    for layer in (root / "infra" / "compose").glob("*.yaml"):
        shutil.copy2(layer, folder / layer.name)
    secrets.make(folder / "secrets", root / "svc-governance" / "src" / "svc_governance" / "local_roles.json")
    failed: list[str] = []
    for layers in LAYERS:
        done = subprocess.run(
            [program, *(f"{layer}.yaml" for layer in layers)], capture_output=True, text=True, check=False, cwd=folder
        )
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            failed.append(f"compose {' + '.join(layers)}")
        else:
            print(f"{' + '.join(layers)}: {len(yaml.safe_load(done.stdout)['services'])} containers")
    return failed


def _manifests(root: Path, tools: Path, venv: Path, go: str) -> list[str]:
    kustomize = _built(tools, go, *KUSTOMIZE, "kustomize")
    definition = tools / f"scaledobject-{KEDA[1]}.json"
    if not definition.exists():
        definition.write_text(json.dumps(_keda(tools, go)))
    failed: list[str] = []
    for room in ROOMS:
        rendered = tools / f"{room.replace('/', '-')}.yaml"
        built = subprocess.run([kustomize, "build", root / "infra" / "kubernetes" / room], capture_output=True, check=False)
        if built.returncode != 0:
            print(built.stderr.decode(), file=sys.stderr)
            failed.append(f"kustomize build {room}")
            continue
        documents = [found for found in yaml.safe_load_all(built.stdout) if found]
        own = [found for found in documents if not found["apiVersion"].startswith("keda.sh/")]
        rendered.write_text(yaml.safe_dump_all(own))
        for version in KUBERNETES:
            if not _ask(venv, "kubernetes-validate", "--strict", "--quiet", "-k", version, rendered):
                failed.append(f"Kubernetes {version} {room}")
        for number, scaled in enumerate(found for found in documents if found["kind"] == "ScaledObject"):
            one = tools / f"scaled-{number}.json"
            one.write_text(json.dumps(scaled))
            if not _ask(venv, "check-jsonschema", "--schemafile", definition, one):
                failed.append(f"KEDA {scaled['metadata']['name']}")
        print(f"{room}: {len(documents)} objects, Kubernetes {' and '.join(KUBERNETES)}")
    return failed


def _ask(venv: Path, tool: str, *arguments: str | Path) -> bool:
    """Whether a tool is content; what it says otherwise is printed."""
    done = subprocess.run([venv / "bin" / tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{tool} {' '.join(str(a) for a in arguments)}\n{done.stdout}{done.stderr}", file=sys.stderr)
    return done.returncode == 0


def _environment(root: Path, venv: Path) -> Path:
    """The environment of the lock, made anew when the lock has changed."""
    lock = root / "infra" / "requirements" / "manifests.lock"
    stamp, digest = venv / ".lock", hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return venv
    env = {name: value for name, value in bootstrap.installer_environment().items() if name != "VIRTUAL_ENV"}
    uv = installer()
    subprocess.run([uv, "venv", "-q", "--clear", "--python", base_python(), venv], check=True, env=env)
    install = [uv, "pip", "install", "-q", "--python", venv / "bin" / "python", "--no-deps", "--require-hashes", "-r", lock]
    subprocess.run(install, check=True, env=env)
    stamp.write_text(digest)
    return venv


def _built(tools: Path, go: str, module: str, version: str, made: str) -> Path:
    """A program of a Go module, built once. `made` is what Go calls it."""
    program = tools / f"{'compose' if made == 'cmd' else made}-{version}"
    if not program.exists():
        print(f"building {module} {version}", flush=True)
        subprocess.run([go, "install", f"{module}@{version}"], check=True, env={**os.environ, "GOBIN": str(tools)})
        (tools / made).rename(program)
    return program


def _keda(tools: Path, go: str) -> dict[str, Any]:
    """The JSON schema of a ScaledObject: that of its definition, closed wherever it names its fields."""
    done = subprocess.run(
        [go, "mod", "download", "-json", "@".join(KEDA)], capture_output=True, text=True, check=True, cwd=tools
    )
    folder = Path(json.loads(done.stdout)["Dir"])
    found = yaml.safe_load((folder / "config" / "crd" / "bases" / "keda.sh_scaledobjects.yaml").read_text())
    (version,) = [one for one in found["spec"]["versions"] if one["name"] == "v1alpha1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    _close(schema["properties"]["spec"])
    return schema


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        for inner in schema.values():
            _close(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _close(inner)


if __name__ == "__main__":
    sys.exit(main())
