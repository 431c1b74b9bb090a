"""The closing report as a page: whole in one file."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from headrace_demo import page, report
from unit.demo.test_demo_checks import sound

DAY_MS = 86_400_000


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    """No script, no style sheet, no image, no font from elsewhere; every plot is inline."""
    found = sound()
    found.decisions = found.decisions.with_columns(t_ms=pl.int_range(pl.len()) * (DAY_MS // 100))
    found.followed = {}
    found.weights = [(0, 10, "CANARY"), (DAY_MS, 100, "PROMOTED")]
    found.looks = [{"end_ms": DAY_MS, "worst_psi": 0.25}]
    document = report.document(found, tmp_path)
    text = page.write(found, document, "http://127.0.0.1:19411", tmp_path / "demo.html").read_text()
    assert text.count("<svg") == len(page.PLOTS)
    assert not re.search(r"<(script|link|img|iframe)\b", text)
    assert not re.search(r"""(href|src)=["']https?:""", text)
    for check in document["checks"]:
        assert check["name"].replace("'", "&#x27;") in text
