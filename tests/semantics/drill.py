"""`make drill-semantics`: what happens to an upgrade of Polars that changes the meaning of a value.

this environment              the golden vectors pass
another release of Polars     an environment of its own, everything else shared: they fail, and name what moved
a stand-in                    this Polars with `//` made to truncate, as engines do: a release that changes a value and
                              raises nothing; plainly not a real release
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from semantics.golden import REMEDY

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".headrace"
LOCK = ROOT / "infra" / "requirements" / "semantics.lock"
CHECK_S = 300  # takes some ten seconds
STAND_IN = """
import runpy, sys
import polars as pl
floored = pl.Expr.__floordiv__
def truncated(self, other):
    quotient = floored(self, other)
    return pl.when((quotient < 0) & (quotient * other != self)).then(quotient + 1).otherwise(quotient)
pl.Expr.__floordiv__ = truncated
sys.argv = ["semantics", *sys.argv[1:]]
runpy.run_module("semantics", run_name="__main__")
"""


def run(polars: str | None) -> int:
    """0 if the current environment passes and both changed ones fail with a message that names what moved."""
    here = _checked("current", [sys.executable, "-m", "semantics"])
    python = _environment(polars)
    other = _checked("another Polars", [str(python), "-m", "semantics"])
    patched = _checked("stand-in: // truncates", [sys.executable, "-c", STAND_IN])
    cases = {"current": here, "another_polars": other, "stand_in": patched}
    held = here["passed"] and not other["passed"] and bool(other["values_changed"]) and not patched["passed"]
    report = {"held": held, "polars_here": here["polars"], "polars_other": other["polars"], **cases}
    file = KEPT / "reports" / "drill-semantics.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{'held' if held else 'NOT held'}: {file.relative_to(ROOT)}")
    return 0 if held else 1


def _environment(polars: str | None) -> Path:
    """A Python that sees another Polars first, and everything else of this one."""
    pinned = next(line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("polars=="))
    release = polars or pinned.removeprefix("polars==").split()[0]
    folder = KEPT / "semantics" / f"polars-{release}"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = folder / "lib" / version / "site-packages"
    wanted = [f"polars=={polars}"] if polars else ["--require-hashes", "-r", str(LOCK)]
    subprocess.run([_uv(), "pip", "install", "-q", "--python", str(python), "--no-deps", *wanted], check=True)
    if polars:  # newer releases keep their engine in a package of its own
        engine = f"polars-runtime-32=={polars}"
        subprocess.run([_uv(), "pip", "install", "-q", "--python", str(python), "--no-deps", engine], check=False)
    (own / "zz_shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # its own packages come first
    ready.touch()
    return python


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        sys.exit("uv is not there: run `make env-test` first")
    return found


def _checked(name: str, command: list[str]) -> dict[str, Any]:
    """One check as a process, told, with what it wrote."""
    told = KEPT / "semantics" / "told.json"
    told.parent.mkdir(parents=True, exist_ok=True)
    told.unlink(missing_ok=True)
    paths = [str(ROOT / "tests"), str(ROOT / "schemas" / "src")]
    done = subprocess.run(
        [*command, "check", "--report", str(told)], cwd=ROOT, capture_output=True, text=True, timeout=CHECK_S, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    print(f"--- {name}: {'passes' if done.returncode == 0 else 'FAILS'}\n{_short(done.stdout)}")
    if not told.exists():
        sys.exit(f"{name}: the check itself failed\n{done.stderr[-2000:]}")
    found = json.loads(told.read_text(encoding="utf-8"))
    moved = found.pop("moved")
    raised = [m for m in moved if _raised(m["new"])]
    return {
        "passed": done.returncode == 0,
        **found,
        "values_changed": [m for m in moved if not _raised(m["new"])],
        "cannot_be_computed": [m["function"] for m in raised],
        "says_what_to_do": done.returncode == 0 or REMEDY in done.stdout,
    }


def _raised(new: object) -> bool:
    return isinstance(new, str) and "Error: " in new


def _short(text: str) -> str:
    return "\n".join(line[:220] for line in text.splitlines())
