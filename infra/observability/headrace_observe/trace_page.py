"""One decision's trace as evidence: the store's JSON, and a picture of the store's own page in a real browser.

    python -m headrace_observe.trace_page 2013-06-01.UA.1545.EWR
    python -m headrace_observe.trace_page 4bf92f3577b34da6a3ce929d0e0e4736 --into /tmp

Writes decision-trace.json and decision-trace.png. The page is drawn by Chromium without a window; it is believed only if its
text names every service of the trace: a page that is still loading has none.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.client.explain import find
from headrace.client.way import Untold, fetch
from headrace.contracts.errors import HeadraceError
from headrace_local import Stack

DOCS = Path(__file__).resolve().parents[1] / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SIZE = "1600,1000"
LOADING_MS = 15_000  # of the browser's own clock, which runs ahead while it waits for the network
BROWSER_S = 90.0
TRACE_ID = re.compile(r"[0-9a-f]{32}")
NAME = "decision-trace"


class NotDrawn(RuntimeError):
    """No browser, or a page without the trace in it."""


def browser() -> str:
    """Raises: NotDrawn with the way out."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise NotDrawn("no Chromium on PATH: apt-get install chromium")
    return found


def page_url(store: str, trace_id: str) -> str:
    """Where people look at a trace."""
    return f"{store.rstrip('/')}/zipkin/traces/{trace_id}"


def draw(url: str, target: Path, expected: Sequence[str]) -> str:
    """Draw a page to a PNG and return its text as the browser built it.

    Args:
        expected: words that must stand in it.
    Raises: NotDrawn.
    """
    text = _browse(url, "--dump-dom")
    missing = [word for word in expected if word.lower() not in text.lower()]
    if missing:
        raise NotDrawn(f"{url} does not show {', '.join(missing)}")
    target.unlink(missing_ok=True)
    _browse(url, f"--screenshot={target}", f"--window-size={SIZE}")
    if not target.exists() or target.read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        raise NotDrawn(f"the browser wrote no picture to {target}")
    return text


def _browse(url: str, *more: str) -> str:
    with tempfile.TemporaryDirectory(prefix="headrace-browser-") as profile:
        command = [
            browser(), "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--no-proxy-server",
            f"--user-data-dir={profile}", f"--virtual-time-budget={LOADING_MS}", *more, url,
        ]  # fmt: skip
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium's sandbox refuses root, as in CI
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BROWSER_S)
        except subprocess.TimeoutExpired as error:
            raise NotDrawn(f"the browser did not end in {BROWSER_S:g} s at {url}") from error
    if done.returncode:
        raise NotDrawn(f"the browser ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def services_of(spans: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({span.get("localEndpoint", {}).get("serviceName", "") for span in spans} - {""})


def keep(store: str, trace_id: str, into: Path) -> tuple[Path, Path]:
    """The trace's JSON and the picture of its page. Raises: Untold, NotDrawn."""
    spans = fetch(store, trace_id)
    into.mkdir(parents=True, exist_ok=True)
    told, drawn = into / f"{NAME}.json", into / f"{NAME}.png"
    draw(page_url(store, trace_id), drawn, services_of(spans))
    told.write_text(json.dumps(spans, indent=1, sort_keys=True) + "\n")
    return told, drawn


def main() -> int:
    """Look at the local stack, unless told otherwise."""
    stack = Stack()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("id", help="request id of a decision, or a trace id")
    parser.add_argument("--pipeline", default="flights")
    parser.add_argument("--zipkin", default=stack.zipkin_url)
    parser.add_argument("--lake", type=Path, default=stack.layout.lake)
    parser.add_argument("--into", type=Path, default=DOCS)
    given = parser.parse_args()
    try:
        trace_id = given.id
        if not TRACE_ID.fullmatch(given.id):
            found = find(given.lake, stack.bootstrap, stack.registry_url, given.pipeline, given.id)
            trace_id = found.passport["trace_id"] if found else ""
        if not trace_id:
            print(f"no trace of {given.id}: no such decision, or its request was not sampled")
            return 1
        for path in keep(given.zipkin, trace_id, given.into):
            print(path)
    except (HeadraceError, Untold, NotDrawn) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
