"""How large the views of a feature set become, and what is too large to lie in every svc-serve replica.

Only who declares a set knows how many entities there are, and how often each comes. Where it is declared (or given to
`headrace plan`), bytes are projected from the set's own encoded blocks; where it is not, nothing can be refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from headrace.plan.costs import set_cost
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.problems import Path, Problem, decimal_of, known_as

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def expected(plan: Plan, feature_set: FeatureSet, keys: int | None, rates: Mapping[str, float]) -> int | None:
    """Projected bytes of all its views together; None if nobody says how many entities there are.

    Args:
        keys: entities, in place of what is declared.
        rates: events of one entity a day, by event name, over what is declared; an event without one fills every tile.
    """
    count = feature_set.keys_expected if keys is None else keys
    if count is None:
        return None
    named = feature_set if feature_set.hash else replace(feature_set, hash="0" * 64)  # compiled, not sealed yet
    return count * set_cost(plan, named).projected_bytes_per_key(rates_of(feature_set, rates))


def rates_of(feature_set: FeatureSet, given: Mapping[str, float]) -> dict[str, float]:
    """Events of one entity a day: declared, or given in its place."""
    return {event: float(rate) for event, rate in feature_set.events_a_day} | dict(given)


def promise_problems(here: Path, feature_set: FeatureSet) -> Iterator[Problem]:
    """What is said of load and freshness, and changes no value."""
    if feature_set.keys_expected is not None and feature_set.keys_expected <= 0:
        yield Problem(here, f"{feature_set.keys_expected} keys", "how many entities there are, such as keys=60_000_000")
    for event, rate in feature_set.events_a_day:
        yield from known_as((*here, "events_a_day"), "event", event, feature_set.events)
        number = decimal_of(rate)
        if number is None or number <= 0:
            yield Problem(here, f"{rate} events of {event} a day", "a number above nothing")
    if feature_set.view_bytes_max <= 0:
        yield Problem(here, "view_limit is not positive")
    if feature_set.freshness_ms is not None and feature_set.freshness_ms <= 0:
        yield Problem(here, "freshness is not positive")


def view_problems(
    plan: Plan, feature_set: FeatureSet, keys: int | None = None, rates: Mapping[str, float] | None = None
) -> Iterator[Problem]:
    """A replicated set above its limit: every svc-serve replica would hold all of it."""
    if feature_set.placement != "replicated":
        return
    total = expected(plan, feature_set, keys, rates or {})
    if total is None or total <= feature_set.view_bytes_max:
        return
    here: Path = ("feature_set", feature_set.name)
    count = feature_set.keys_expected if keys is None else keys
    yield Problem(
        here,
        f"{bytes_text(total)} of state projected for {count:,} entities in every svc-serve replica, the limit is "
        f"{bytes_text(feature_set.view_bytes_max)}",
        'write placement="owned", with its events keyed by the entity; or a bigger limit that every replica\'s disk has room '
        f'for: view_limit="{_room(total)}"; or say how few events an entity has: events_a_day={{...}}',
    )


def bytes_text(count: float) -> str:
    """In the largest binary unit that leaves a number of at least one."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:,.1f} {_UNITS[unit]}" if unit else f"{count:,.0f} bytes"


def _room(count: int) -> str:
    """The next power of two above, as `view_limit` takes it."""
    size = 1 << max(count - 1, 1).bit_length()
    unit = min((size.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{size >> 10 * unit}{_UNITS[unit] if unit else 'B'}"
