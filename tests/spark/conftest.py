"""A real Spark, distributed: a driver and two executors, each a process of its own with Python workers of its own.

`make spark` installs what is needed and runs these; `make test` does not, since they need pyspark and a full Java.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from svc_features.adapters.spark import SparkSession, session

MASTER = os.environ.get("HEADRACE_TEST_SPARK_MASTER", "local-cluster[2,1,1024]")  # executors, cores and MiB of each
ROOT = Path(__file__).resolve().parents[2]
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p.startswith(str(ROOT)))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    with session(MASTER, 1024, str(tmp_path_factory.mktemp("spill")), 4, {}) as found:
        yield found
