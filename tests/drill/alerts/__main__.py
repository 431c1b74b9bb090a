"""`make drill-alerts`: cause each fault, see its alert at the real Alertmanager and at the stand-ins, repair by the runbook.

The rules run in a variant with every duration divided by FACTOR (thresholds and expressions are the committed ones); the
report says so. Ends with 0 if every alert fired within its declared time, reached the stand-ins, and was resolved.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml
from headrace_observe.local import RULES, Look, Watchtower
from headrace_observe.routing import StandIns, local_routes

from drill.alerts.faults import FAULTS, NOT_DRILLED, Fault
from drill.alerts.harm import FILLED, has_small_disk
from drill.alerts.rig import DAY_MS, Asker, Rig, until
from drill.play import played

FACTOR = 60.0
CALM_S = 90.0
NO_DISK = "no small disk to fill can be had here (Linux, root, a stack this drill started): the machine's own is not filled"


def alerts_of_rules() -> list[str]:
    """Names of all alerts there are."""
    files = [yaml.safe_load(file.read_text()) for file in sorted(RULES.glob("*.yml"))]
    return sorted({rule["alert"] for file in files for group in file["groups"] for rule in group["rules"] if "alert" in rule})


def fires(rig: Rig, alert: str, labels: dict[str, str]) -> bool:
    """Whether the Alertmanager holds it active, inhibited or not."""
    wanted = {"alertname": alert, **labels}
    return any(wanted.items() <= found["labels"].items() for found in rig.tower.firing())


def told(rig: Rig, alert: str, state: str, since: int) -> bool:
    """Whether the webhook's stand-in heard of it in this state, after so many calls."""
    with rig.stands.lock:
        return any(alert in text and how == state for _, how, text in rig.stands.webhook.told[since:])


def drill(rig: Rig, fault: Fault) -> list[dict[str, Any]]:
    """One fault; a row per alert. What goes wrong is told in the row: the other faults are caused all the same."""
    began, heard = time.monotonic(), len(rig.stands.webhook.told)
    rows = {alert: {"fault": fault.name, "alert": alert, "declared_s": fault.within_s} for alert, _ in fault.alerts}
    try:
        with ExitStack() as harm:
            harm.enter_context(fault.cause(rig))
            caused = time.monotonic()
            for alert, labels in fault.alerts:
                until(f"{alert} fires", lambda a=alert, x=labels: fires(rig, a, x), fault.within_s)
                rows[alert] |= {"set_up_s": round(caused - began, 1), "fired_s": round(time.monotonic() - caused, 1)}
                until(f"{alert} is told", lambda a=alert: told(rig, a, "open", heard), 60)
                rows[alert]["told"] = True
            left_s = fault.repair_after_s - (time.monotonic() - began)
            time.sleep(max(0.0, left_s))
            repaired = time.monotonic()
            if fault.undone_first:
                harm.close()
            commands = rig.follow(fault.alerts[0][0])
            for alert, labels in fault.alerts:
                rows[alert]["repair"] = commands
                until(f"{alert} is resolved", lambda a=alert, x=labels: not fires(rig, a, x), fault.over_s)
                until(f"the end of {alert} is told", lambda a=alert: told(rig, a, "closed", heard), 60)
                rows[alert]["resolved_s"] = round(time.monotonic() - repaired, 1)
    except Exception as error:  # of brokers, clients, tools, files: a fault that fails is a row, not the end of the drill
        for row in rows.values():
            row.setdefault("trouble", f"{type(error).__name__}: {error}"[-600:])
        with suppress(Exception):  # what was harmed is mended all the same: the next fault finds a whole stack
            rig.follow(fault.alerts[0][0])
    return list(rows.values())


def acts(wanted: Sequence[Fault]) -> list[list[Fault]]:
    """Those that do not touch each other at once, else one after the other, in the order of their first."""
    made: dict[str, list[Fault]] = {}
    for fault in wanted:
        made.setdefault(fault.act or fault.name, []).append(fault)
    return list(made.values())


def main() -> int:
    """Run the drill, or the named faults of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave the stack running")
    parser.add_argument("--only", default="", help="names of faults, comma separated")
    parser.add_argument("--resume", action="store_true", help="start on the data of the last play")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    wanted = [fault for fault in FAULTS if not given.only or fault.name in given.only.split(",")]
    began = time.monotonic()
    with StandIns() as stands, played(keep=given.keep, resume=given.resume, own_disk=FILLED) as play:
        folder = play.stack.layout.home / "observe-drill"
        routes = local_routes(stands, play.stack.layout.home / "observe-secrets")
        with Watchtower(play.stack, folder, Look("1s", FACTOR, routes)) as tower:
            departed = play.story.year.streams["departures"]
            asker = Asker(play.stack.url("svc-serve"), lambda low, high: departed.between(low, high).to_dicts())
            rig = Rig(play, tower, stands, asker)
            report = _run(rig, wanted) | {"took_s": round(time.monotonic() - began)}
    file: Path = play.stack.layout.reports / "drill-alerts.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "rows"}, indent=2))
    return 0 if report["ok"] else 1


def _run(rig: Rig, wanted: Sequence[Fault]) -> dict[str, Any]:
    """Cause what is wanted while somebody keeps asking; the report."""
    rig.at_ms = rig.played.reached_ms()
    rig.asker.like(json.loads(rig.played.story.year.lines("scheduled", rig.at_ms, rig.at_ms + DAY_MS)[0]))
    rig.asker.t_ms = rig.at_ms
    rig.asker.start()
    _calm(rig, wanted)
    not_drilled, rows = dict(NOT_DRILLED), list[dict[str, Any]]()
    if not has_small_disk(rig.stack):
        wanted = [fault for fault in wanted if fault.name != "fill the disk"]
        not_drilled["DiskFilling"] = NO_DISK
    for act in acts(wanted):
        with ThreadPoolExecutor(len(act)) as pool:
            for found in pool.map(lambda fault: drill(rig, fault), act):
                rows += found
                print(json.dumps(found, indent=1), flush=True)
        with suppress(httpx.HTTPError):
            rig.catch_up()
    rig.asker.stop.set()
    return _report(rows, rig.stands, rig.asker) | {"not_drilled": not_drilled}


def _calm(rig: Rig, wanted: Sequence[Fault]) -> None:
    """Wait until nothing fires that is to be caused.

    The play leaves a parked pipeline behind: it is taken down, so that parking it is the drill's own doing. And counters of
    what must never happen fire over what was before, as long as this Prometheus has not seen them stand still.
    """
    with rig.played.story.as_person("ada") as client:
        if any(found["pipeline"] == "faulty" and found["state"] == "ADMITTED" for found in client.pipelines()):
            client.retire("faulty")
    rig.at_ms = rig.played.a_day(rig.at_ms)
    rig.catch_up()
    due = [pair for fault in wanted for pair in fault.alerts]
    with suppress(TimeoutError):
        until("a calm start", lambda: not any(fires(rig, alert, labels) for alert, labels in due), CALM_S)
    until("looks at the broker", lambda: bool(rig.tower.query("min(count_over_time(kafka_brokers[10s])) > 4")), 60)


def _report(rows: list[dict[str, Any]], stands: StandIns, asker: Asker) -> dict[str, Any]:
    fired = sorted(row["alert"] for row in rows if row.get("told"))
    resolved = sorted(row["alert"] for row in rows if "resolved_s" in row)
    pages = {name: len([1 for _, how, _ in pager.told if how == "open"]) for name, pager in _doors(stands)}
    return {
        "drill": "alerts", "alerts": len(rows), "fired": len(fired), "resolved": len(resolved),
        "durations_divided_by": FACTOR, "cores": os.cpu_count(),
        "without_a_fault": sorted(set(alerts_of_rules()) - {row["alert"] for row in rows}),
        "told": pages, "refused_by_stand_ins": {name: pager.refused for name, pager in _doors(stands)},
        "asked": {str(status): count for status, count in sorted(asker.answers.items())},
        "ok": len(fired) == len(resolved) == len(rows), "rows": rows,
    }  # fmt: skip


def _doors(stands: StandIns) -> list[tuple[str, Any]]:
    return [("pagerduty", stands.pagerduty), ("opsgenie", stands.opsgenie), ("webhook", stands.webhook)]


if __name__ == "__main__":
    raise SystemExit(main())
