"""From the bytes of an admitted plan to a plan that may run."""

from __future__ import annotations

from headrace.plan.hashes import from_json
from headrace.plan.ir import Plan
from headrace.plan.validate import validate


def read_plan(data: bytes) -> Plan:
    """Read, check the hashes against the content and all that a compiler would refuse: PlanFollower's `parse`.

    Raises: PlanFormatError or the validator's error, both ValueErrors that name the place.
    """
    plan = from_json(data)
    validate(plan)
    return plan
