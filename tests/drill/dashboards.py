"""`make check-dashboards`: every query of every dashboard against a real Prometheus over a real, played stack; and the plots.

--keep     leave the stack running; a stack that already runs is taken as it is, after a short wait for scrapes
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from headrace_observe.check import check
from headrace_observe.local import Look, Watchtower

from drill.play import Played, open_stack, play_on
from headrace.client.features import FeaturesClient
from headrace_local.stack import clone_root

DAYS_MAX, DAY_S = 40, 3.0
SCRAPED_S = 90.0  # of a stack that was not watched while it played: rates over a minute need as much


def look_at_drift(play: Played, tower: Watchtower) -> None:
    """Go on with the days until svc-monitor has compared a window of the champion's inputs with its profile."""
    at_ms = play.reached_ms()
    for _ in range(DAYS_MAX):
        if tower.query("monitor_drift_looks > 0"):
            return
        at_ms = play.a_day(at_ms)
        time.sleep(DAY_S)


def read_features(play: Played) -> None:
    """Ask svc-features over HTTP, as a notebook does."""
    with FeaturesClient(play.stack.url("svc-features")) as client:
        for _ in range(10):
            client.read("flights", [{"origin": origin} for origin in ("EWR", "JFK", "LGA")])
            time.sleep(1)


def main() -> int:
    """Play while Prometheus looks on, then ask everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended
    root = clone_root()
    with open_stack(keep=given.keep) as (stack, fresh):
        with Watchtower(stack, stack.layout.home / "observe", Look("2s")) as tower:
            began = time.time()
            with play_on(stack, fresh=fresh) as play:
                look_at_drift(play, tower)
                read_features(play)
            if not fresh:
                time.sleep(SCRAPED_S)
            found = check(tower.prometheus, root / "infra" / "observability" / "docs", time.time() - began)
        file: Path = stack.layout.reports / "dashboards.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
