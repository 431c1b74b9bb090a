"""The reference page says what the white list has."""

from __future__ import annotations

from headrace.plan import expression_reference


def test_the_page_is_that_of_the_white_list() -> None:
    """`python -m headrace.plan.expression_reference` writes it."""
    assert expression_reference.PAGE.read_text(encoding="utf-8") == expression_reference.page()
