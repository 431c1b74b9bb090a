"""Read a user's pipeline file. It runs where the user works (command line, notebook), never inside a service."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path

from headrace.declare.errors import DeclarationError, Where, refuse
from headrace.declare.models import Pipeline


def load(path: str | Path) -> Pipeline:
    """The one Pipeline of a file, or of `pipeline.py` in a folder.

    Raises: DeclarationError at the user's line, also for an ordinary Python error in the file.
    """
    file = Path(path)
    file = file / "pipeline.py" if file.is_dir() else file
    if not file.is_file():
        raise refuse(Where(str(file), 1), "no such file", "name a pipeline.py, or the folder that holds one")
    name = "headrace_pipeline_" + hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise refuse(Where(str(file), 1), "not a Python file", "name a pipeline.py, or the folder that holds one")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations are resolved through it
    try:
        spec.loader.exec_module(module)
    except DeclarationError:
        raise
    except SyntaxError as error:
        raise refuse(Where(str(file), error.lineno or 1), f"syntax error: {error.msg}") from None
    except Exception as error:
        lines = [frame.lineno or 1 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        raise refuse(Where(str(file), lines[-1] if lines else 1), f"{type(error).__name__}: {error}") from error
    found = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    if len(found) != 1:
        raise refuse(Where(str(file), 1), f"{len(found)} pipelines in the file", "bind exactly one Pipeline(...) to a variable")
    return found[0]
