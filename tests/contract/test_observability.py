"""Metrics, rules, dashboards, runbooks and routes name only what is there, and say what must be said."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from headrace_observe.boards import BOARDS
from headrace_observe.catalogue import LABELS, PAGE, catalogue, page
from headrace_observe.local import ALERTMANAGER, PROMETHEUS, RULES, shortened
from headrace_observe.panels import Board, runnable

from headrace.cli.main import app
from support.source import ROOT, SERVICES

FOLDER = ROOT / "infra" / "observability"
RUNBOOKS = FOLDER / "runbooks"
TESTS = FOLDER / "prometheus" / "tests"
DASHBOARDS = FOLDER / "grafana" / "dashboards"
SECTIONS = ["What it means", "How to look", "What to do", "How to know it is over"]
METRICS = {metric.name: metric for metric in catalogue()}
SERIES = {name for metric in METRICS.values() for name in metric.series}
GIVEN = {"up", "ALERTS"}  # by Prometheus itself
GIVEN_LABELS = {"service", "job", "instance", "alertname", "alertstate", "severity"}
# What is no metric in PromQL.
WORDS = {
    "sum", "min", "max", "avg", "count", "by", "on", "without", "ignoring", "group_left", "group_right", "and", "or", "unless",
    "rate", "increase", "delta", "changes", "offset", "time", "absent", "vector", "histogram_quantile", "predict_linear",
    "max_over_time", "last_over_time", "clamp_min", "bool",
}  # fmt: skip
SHELL = {"kill", "df", "du", "ps", "rm", "curl"}


@cache
def rules() -> list[dict[str, Any]]:
    """Every rule of every file."""
    files = [yaml.safe_load(file.read_text()) for file in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[str]:
    return sorted({rule["alert"] for rule in rules() if "alert" in rule})


def names_in(expr: str) -> tuple[set[str], set[str]]:
    """(metrics, labels) a query names."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", bare))
    for listed in re.findall(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)", bare):
        labels |= {word.strip() for word in listed.split(",") if word.strip()}
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset \w+", " ", bare)
    return set(re.findall(r"\b[a-zA-Z_][a-zA-Z_0-9:]*\b", bare)) - WORDS, labels


def queries() -> list[tuple[str, str]]:
    """(where, query) of every rule and panel."""
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    return found + [(f"{b.uid} / {p.title}", runnable(expr)) for b in BOARDS for p in b.panels for expr in p.queries.values()]


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_is_documented_and_its_labels_are_bounded(name: str) -> None:
    """A label is one of a list that says for each what bounds it; a key, an id or a message is in no such list."""
    metric = METRICS[name]
    assert len(metric.says.split()) >= 2, "say what it is"
    assert metric.says.rstrip().endswith(".") or metric.home == "every service", metric.says
    unbounded = [label for label in metric.labels if label not in LABELS]
    assert not unbounded, f"say in LABELS what bounds {unbounded}, or leave them out"
    assert re.fullmatch(r"[a-z][a-z0-9_]+", name), name
    assert (metric.kind == "counter") == name.endswith("_total"), metric.kind


def test_the_catalogue_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(catalogue()), "python -m headrace_observe.catalogue"


def test_queries_name_only_metrics_that_somebody_exports() -> None:
    known = SERIES | GIVEN | {rule["record"] for rule in rules() if "record" in rule}
    wrong = [f"{where}: {name}" for where, expr in queries() for name in sorted(names_in(expr)[0] - known)]
    assert not wrong, "\n".join(wrong)


def test_queries_name_only_labels_that_there_are() -> None:
    wrong = [f"{where}: {name}" for where, expr in queries() for name in sorted(names_in(expr)[1] - set(LABELS) - GIVEN_LABELS)]
    assert not wrong, "\n".join(wrong)


def test_a_query_of_a_metric_nobody_exports_is_found() -> None:
    """Goal: the two tests above can fail."""
    metrics, labels = names_in('sum by (city) (rate(serve_nothing_total{user="7"}[5m])) / on (pipeline) up offset 1h')
    assert metrics == {"serve_nothing_total", "up"}
    assert labels == {"city", "user", "pipeline"}


# -- alerts and runbooks


@pytest.mark.parametrize("alert", alerts())
def test_every_alert_has_a_severity_words_and_a_runbook_of_four_parts(alert: str) -> None:
    for rule in (r for r in rules() if r.get("alert") == alert):
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"infra/observability/runbooks/{alert}.md"
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    assert parts[::2] == SECTIONS
    assert all(len(body.split()) >= 5 for body in parts[1::2]), "say something in each part"


def test_every_runbook_belongs_to_an_alert_and_its_links_lead_somewhere() -> None:
    assert sorted(file.stem for file in RUNBOOKS.glob("*.md")) == alerts()
    for file in RUNBOOKS.glob("*.md"):
        for target in re.findall(r"\]\(([^)]+)\)", file.read_text()):
            assert (RUNBOOKS / target).exists(), f"{file.name}: {target}"


def test_every_alert_has_a_unit_test() -> None:
    told = {
        test["alertname"]
        for file in TESTS.glob("*.yml")
        for case in yaml.safe_load(file.read_text())["tests"]
        for test in case.get("alert_rule_test", [])
        if test["exp_alerts"]
    }
    assert sorted(told) == alerts()


def commands() -> list[Any]:
    """Each line of each fenced shell block of each runbook."""
    found = []
    for file in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"^```sh[^\n]*\n(.*?)^```", file.read_text(), re.DOTALL | re.MULTILINE):
            found += [pytest.param(line, id=f"{file.stem}: {line}") for line in block.splitlines() if line.strip()]
        for spoken in re.findall(r"`(headrace [^`]+)`", file.read_text()):
            found.append(pytest.param(f".venv/bin/{spoken}", id=f"{file.stem}: {spoken}"))
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_a_runbook_names_exists(command: str) -> None:
    """Verbs of the Makefile, commands and options of the command line, modules, and routes of the services."""
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif words[0] == ".venv/bin/headrace":
        _check_headrace(words[1:])
    elif words[0] == ".venv/bin/python":
        assert (FOLDER / (words[2].replace(".", "/") + ".py")).exists(), command
    elif words[0] == "curl":
        _check_route(words[-1])
    else:
        assert words[0] in SHELL, command


def _check_headrace(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    wrong = [word for word in words if word.startswith("--") and word not in options]
    assert not wrong, f"no such options: {wrong}"


def _check_route(url: str) -> None:
    at = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/[^?]*)(\?.*)?", url)
    assert at is not None, url
    service = SERVICES[int(at[1]) - 18101]
    if at[2].startswith("/health/") or at[2] == "/metrics":  # the chassis has these in every service
        return
    text = "".join(file.read_text() for file in (ROOT / f"svc-{service}" / "src").rglob("*.py"))
    templates = re.findall(r'"(/[^"\s]+)"', text)
    prefixes = re.findall(r'prefix="([^"]+)"', text)
    templates += [prefix + rest for prefix in prefixes for rest in re.findall(r'\("(/[^"]*)"', text)]
    assert any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), at[2]) for template in templates), f"svc-{service}: {at[2]}"


# -- dashboards


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_dashboard_shows_its_panels_with_their_queries_and_links(board: Board) -> None:
    """The committed JSON against the data it is made from: titles, queries, legends, units, and where each panel leads."""
    document = json.loads((DASHBOARDS / f"{board.uid}.json").read_text())
    shown = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in shown] == [panel.title for panel in board.panels]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    for panel, declared in zip(shown, board.panels, strict=True):
        assert {t["legendFormat"]: t["expr"] for t in panel["targets"]} == dict(declared.queries)
        assert len({t["refId"] for t in panel["targets"]}) == len(declared.queries)
        assert (RUNBOOKS / f"{declared.runbook}.md").exists()
        assert panel["links"][0]["url"] == f"/public/runbooks/{declared.runbook}.md"
        assert declared.service in panel["links"][1]["url"]
        assert panel["description"] == declared.says
        assert panel["type"] == declared.kind
        assert 0 <= panel["gridPos"]["x"] <= 18
        assert all(t["exemplar"] == declared.exemplars for t in panel["targets"])


def test_there_is_a_dashboard_for_each_kind_of_looking_and_no_other_file() -> None:
    assert {file.stem for file in DASHBOARDS.glob("*.json")} == {board.uid for board in BOARDS}
    models = next(board for board in BOARDS if board.uid == "headrace-models")
    assert [row.title for row in models.rows] == ["Performance", "Quality", "Data drift", "Model drift", "System", "Business"]


def test_the_committed_dashboards_are_what_the_generator_writes() -> None:
    python = ROOT / ".headrace" / "observability-env" / "bin" / "python"
    if not python.exists():
        pytest.skip("the generator's own environment is not here: `make dashboards` makes it")
    done = subprocess.run([python, FOLDER / "grafana" / "generate.py", "--check"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# -- the real tools


def _tool(*command: str | Path) -> None:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"{command[0]} is not installed: apt-get install prometheus prometheus-alertmanager")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", sorted(TESTS.glob("*.yml")), ids=lambda file: file.stem)
def test_rules_pass_their_unit_tests(file: Path) -> None:
    _tool("promtool", "test", "rules", file)


def test_prometheus_takes_rules_and_configuration() -> None:
    _tool("promtool", "check", "rules", *sorted(RULES.glob("*.yml")))
    _tool("promtool", "check", "config", "--syntax-only", PROMETHEUS)


def test_prometheus_takes_the_rules_of_the_drill(tmp_path: Path) -> None:
    for file in RULES.glob("*.yml"):
        (tmp_path / file.name).write_text(yaml.safe_dump(shortened(yaml.safe_load(file.read_text()), 60.0)))
    _tool("promtool", "check", "rules", *sorted(tmp_path.glob("*.yml")))


def test_alertmanager_takes_its_routes() -> None:
    _tool("amtool", "check-config", ALERTMANAGER)


def test_scraped_are_all_seven_services_and_the_broker() -> None:
    jobs = {job["job_name"]: job["static_configs"] for job in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}
    assert [target["labels"]["service"] for target in jobs["headrace"]] == [f"svc-{name}" for name in SERVICES]
    assert "broker" in jobs
