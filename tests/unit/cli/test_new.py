"""`headrace new` makes a pipeline that runs at once."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.contracts.catalogue import PLATFORM_DOMAINS
from headrace.declare import compile, load
from headrace.testing import Driver

SOURCES = Path(__file__).parents[3] / "schemas" / "src"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "food-orders"
    result = CliRunner().invoke(app, ["new", "food-orders", "--into", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


def module(file: Path) -> ModuleType:
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_it_holds_declaration_producer_test_sample_and_readme_under_its_name(made: Path) -> None:
    files = {str(file.relative_to(made)) for file in made.rglob("*") if file.is_file()}
    assert files == {"README.md", "pipeline.py", "producer.py", "test_pipeline.py", "sample/events.jsonl"}
    assert not any("parcels" in file.read_text() for file in made.rglob("*") if file.is_file())
    plan = compile(load(made))
    assert plan.pipeline == "food-orders"
    assert {event.topic for event in plan.events} == {"food-orders.orders.v1", "food-orders.deliveries.v1"}


def test_pytest_in_the_new_folder_passes_without_a_broker(made: Path) -> None:
    """As its README says, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_plan_of_the_new_folder_has_nothing_to_warn_of(made: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(made), "--plain"])
    assert result.exit_code == 0, result.output
    assert "late_delivery" in result.output
    assert "warnings" not in result.output


def test_the_producer_sends_what_the_declaration_declares(made: Path) -> None:
    """Fields, ranges, order and labels: what it generates is accepted whole and holds both outcomes."""
    producer, driver = module(made / "producer.py"), Driver(made)
    rows = list(producer.history(datetime(2026, 3, 2, tzinfo=UTC), days=2))
    for source, row in rows:
        driver.feed(source, row)
    assert not driver.late() + driver.duplicates() + driver.dead_letters()
    late = [row["minutes_late"] > 10 for source, row in rows if source == "deliveries"]
    assert 0.15 < sum(late) / len(late) < 0.6
    assert producer.PIPELINE == "food-orders"


def test_what_it_says_to_type_next_begins_with_the_environment_that_has_pytest(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["new", "food", "--into", str(tmp_path / "food")], env={"COLUMNS": "80"}).output
    assert 0 < said.index("make env-test") < said.index("&& pytest")
    readme = (tmp_path / "food" / "README.md").read_text()
    assert readme.index("make env-test") < readme.index("pytest   ")
    assert "127.0.0.1" not in readme


def test_its_request_goes_where_svc_serve_is(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SERVE_URL", "http://127.0.0.1:1")
    producer = module(made / "producer.py")
    with pytest.raises(producer.Unanswered, match=r"http://127\.0\.0\.1:1/v1/food-orders/late_delivery/decisions"):
        producer.ask()


@pytest.mark.parametrize("what", ["history", "live"])
def test_the_producer_says_in_one_line_that_nobody_listens(what: str, made: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "HEADRACE_INGEST_URL": "http://127.0.0.1:1"}
    command = [sys.executable, str(made / "producer.py"), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("nobody listens at http://127.0.0.1:1: ")
    assert len(done.stderr.splitlines()) == 1
    assert "make up" in done.stderr


@pytest.mark.parametrize("name", ["Food", "food_orders", "-food", "food--orders", "", min(PLATFORM_DOMAINS)])
def test_a_name_no_pipeline_can_have_is_refused(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new", "--into", str(tmp_path / "x"), "--", name])
    assert result.exit_code == 1
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    result = CliRunner().invoke(app, ["new", "food", "--into", str(tmp_path)])
    assert result.exit_code == 1
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]
