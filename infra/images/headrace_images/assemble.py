"""Plays the instructions of a Dockerfile into a folder, without an engine: what the image would hold under /opt.

COPY is played as written, through .dockerignore. Of RUN there are four kinds: the virtual environment, the installation of the
lock (by uv instead of pip: same lock, same hashes), the compilation, and the making of the user, which the cell stands in for.
Any other is refused, so that a Dockerfile cannot do what nobody tried.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import bootstrap
from headrace_images import dockerfile, ignore
from headrace_images.dockerfile import Dockerfile, Instruction, Stage

VENV = "/opt/venv"
# Every module of a service but what is run by name; prints how many, and the libraries that were mapped on the way.
IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
top = importlib.import_module(sys.argv[1])
names = [m.name for m in pkgutil.walk_packages(top.__path__, top.__name__ + '.') if not m.name.endswith('__main__')]
for name in names:
    importlib.import_module(name)
print(len(names))
lines = [line.split() for line in pathlib.Path('/proc/self/maps').read_text().splitlines()]
print(' '.join(sorted({parts[5] for parts in lines if len(parts) > 5 and '.so' in parts[5]})))
"""


class NotPlayed(RuntimeError):
    """An instruction that cannot be played here, or one that failed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Assembled:
    """An image without its base. Sizes in bytes."""

    service: str
    file: Dockerfile
    opt: Path
    python: Path
    environment_bytes: int
    sources_bytes: int
    packages: int
    install_s: float


def base_python() -> Path:
    """What stands in for the base image's Python; the cell shows it at the same place, where it finds its library."""
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def assemble(clone: Path, service: str, folder: Path, arguments: dict[str, str] | None = None) -> Assembled:
    """Play `<service>/Dockerfile` into `folder`.

    Raises: NotPlayed, NotRead, CalledProcessError of the installer.
    """
    file = dockerfile.read((clone / service / "Dockerfile").read_text())
    patterns = (clone / ".dockerignore").read_text().splitlines()
    roots: dict[str, Path] = {}
    install_s = 0.0
    for number, stage in enumerate(file.stages):
        root = folder / (stage.name or f"stage-{number}")
        root.mkdir(parents=True)
        roots[stage.name or str(number)] = root
        copies = {copy.line: copy for copy in stage.copies(arguments)}
        for one in stage.instructions:
            if one.word == "COPY":
                copy = copies[one.line]
                if copy.stage is None:
                    for source in copy.sources:
                        _copy(clone, source, root, copy.target, patterns)
                else:
                    _move(roots[copy.stage], copy.sources[0], root, copy.target)
            elif one.word == "RUN":
                install_s += _run(one, stage, root)
    opt = roots[file.image.name or str(len(file.stages) - 1)] / "opt"
    site = next((opt / "venv" / "lib").glob("python*/site-packages"))
    sizes = tree_bytes(opt / "venv"), tree_bytes(opt / "headrace")
    _warm(opt, site, service)
    packages = len(list(site.glob("*.dist-info")))
    return Assembled(service, file, opt, site, *sizes, packages, round(install_s, 1))


def _warm(opt: Path, site: Path, service: str) -> None:
    """Compile what the service imports, as pip compiles all it installs: the root is read-only, nobody could do it later."""
    sources = [str(folder) for folder in sorted((opt / "headrace").glob("*/src"))]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([*sources, str(site)])}
    command = [base_python(), "-c", IMPORT_ALL, service.replace("-", "_")]
    subprocess.run(command, env=env, capture_output=True, check=False, cwd=opt)  # what cannot be imported is told in the cell


def _copy(clone: Path, source: str, root: Path, target: str, patterns: list[str]) -> None:
    """A file to its name, or what lies in a folder into the target; only what .dockerignore lets through."""
    place, into = clone / source, root / target.lstrip("/")
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    sent = [path for path in files if ignore.admits(patterns, path.relative_to(clone).as_posix())]
    if not sent:
        raise NotPlayed(f"COPY {source}: nothing there, or .dockerignore keeps it out")
    for path in sent:
        one = into if place.is_file() else into / path.relative_to(place)
        one.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, one)


def _move(origin: Path, source: str, root: Path, target: str) -> None:
    into = root / target.lstrip("/")
    into.parent.mkdir(parents=True, exist_ok=True)
    (origin / source.lstrip("/")).rename(into)


def _run(one: Instruction, stage: Stage, root: Path) -> float:
    """Seconds the installation took, 0 for the rest."""
    text = one.rest
    if text == f"python -m venv --without-pip {VENV}":
        _make_venv(root / VENV.lstrip("/"))
    elif install := re.search(r"-m pip --python (\S+)/bin/python install .*-r (\S+)$", text):
        return _install(root, install[1], install[2])
    elif compilation := re.fullmatch(r"\S+/python -m compileall -q (\S+)", text):
        subprocess.run([sys.executable, "-m", "compileall", "-q", root / compilation[1].lstrip("/")], check=True)
    elif not text.startswith("groupadd "):  # the cell gives the user and the folder
        raise NotPlayed(f"line {one.line}: RUN {text[:80]}")
    return 0.0


def _make_venv(folder: Path) -> None:
    """What `python -m venv --without-pip` makes, for the Python of the cell."""
    program = base_python()
    (folder / "bin").mkdir(parents=True)
    (folder / "lib" / program.name / "site-packages").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(program)
    (folder / "pyvenv.cfg").write_text(f"home = {program.parent}\ninclude-system-site-packages = false\n")


def _install(root: Path, venv: str, lock: str) -> float:
    site = next((root / venv.lstrip("/") / "lib").glob("python*/site-packages"))
    began = time.monotonic()
    command = [installer(), "pip", "install", "-q", "--python", base_python()]
    command += [
        "--compile-bytecode",
        "--target",
        site,
        "--only-binary",
        ":all:",
        "--no-deps",
        "--require-hashes",
        "-r",
        root / lock.lstrip("/"),
    ]
    env = {name: value for name, value in bootstrap.installer_environment().items() if name != "VIRTUAL_ENV"}
    subprocess.run([str(word) for word in command], check=True, env=env)
    return time.monotonic() - began


def installer() -> str:
    """uv, as `make env` installs it. Raises: NotPlayed."""
    own = Path(sys.prefix) / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise NotPlayed("uv is not there: make env")
    return found


def tree_bytes(folder: Path) -> int:
    """Sum of the sizes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
