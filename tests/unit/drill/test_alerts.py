"""The drill's own parts: what it reads from runbooks, how it runs commands here, and what it causes at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drill.alerts.__main__ import acts, alerts_of_rules
from drill.alerts.faults import FAULTS
from drill.alerts.rig import RUNBOOKS, Rig, here, repair_commands

TEXT = """# A

```sh
make status
```

```sh repair
make up

.venv/bin/headrace retire faulty
```
"""


def test_only_what_a_runbook_marks_as_repair_is_run() -> None:
    assert repair_commands(TEXT) == ["make up", ".venv/bin/headrace retire faulty"]


def test_a_command_is_run_as_it_is_written_from_the_sources_where_nothing_is_installed() -> None:
    assert here(".venv/bin/headrace retire faulty") == f"{sys.executable} -m headrace.cli.main retire faulty"
    assert here(".venv/bin/python -m headrace_observe.hanging") == f"{sys.executable} -m headrace_observe.hanging"
    assert here("make up") == f"make -o env PY={sys.executable} up"
    assert here("rm -f .headrace/x/*.duckdb") == "rm -f .headrace/x/*.duckdb"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_names_alerts_there_are_and_has_words(fault) -> None:
    assert {alert for alert, _ in fault.alerts} <= set(alerts_of_rules())
    assert (fault.cause.__doc__ or "").strip()
    assert (RUNBOOKS / f"{fault.alerts[0][0]}.md").exists()


def test_every_fault_is_caused_once_and_only_those_of_one_act_at_once() -> None:
    made = acts(FAULTS)
    assert sorted(f.name for act in made for f in act) == sorted(f.name for f in FAULTS)
    for act in made:
        assert len(act) == 1 or len({f.act for f in act}) == 1
        assert len(act) == 1 or act[0].act


def test_a_tampered_file_is_what_delta_s_log_says_and_can_be_put_back(tmp_path: Path) -> None:
    """The archive must stay readable: a reader takes the file's size from the log."""
    folder, log = tmp_path / "t.v1", tmp_path / "t.v1" / "_delta_log"
    log.mkdir(parents=True)
    file = folder / "part-0.snappy.parquet"
    pq.write_table(pa.table({"delay": [1, 2, 3], "id": ["a", "b", "c"]}), file)
    raw, add = file.read_bytes(), {"add": {"path": file.name, "size": file.stat().st_size}}
    (log / "0.json").write_text(json.dumps({"commitInfo": {}}) + "\n" + json.dumps(add) + "\n")
    entry = (log / "0.json").read_bytes()
    stack = SimpleNamespace(layout=SimpleNamespace(lake=tmp_path))
    rig = Rig.__new__(Rig)
    rig.played = SimpleNamespace(stack=stack)  # pyright: ignore[reportAttributeAccessIssue]
    before = rig.tamper("t.v1", "delay", 555, 0.0)
    assert pq.read_table(file).to_pydict() == {"delay": [555] * 3, "id": ["a", "b", "c"]}
    told = [json.loads(line) for line in (log / "0.json").read_text().splitlines()]
    assert told[1]["add"]["size"] == file.stat().st_size
    assert re.fullmatch(r"\d+", str(told[1]["add"]["size"]))
    for where, what in reversed(before):
        where.write_bytes(what)
    assert file.read_bytes() == raw
    assert (log / "0.json").read_bytes() == entry
