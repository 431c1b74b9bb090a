"""`python -m headrace_local.rights`: the broker answers the admin, and every right that holds before any plan is given.

Run until it ends with 0: it is what makes a secure broker ready, so that no service meets one that knows nobody.
"""

from __future__ import annotations

import os
import sys

from headrace.chassis.access import AccessSettings
from headrace.chassis.grants_confluent import ConfluentGrants
from headrace.contracts.errors import HeadraceError
from headrace.contracts.grants import platform_grants


def main() -> int:
    """0: given. 1: not yet."""
    try:
        ConfluentGrants(os.environ["HEADRACE_BOOTSTRAP"], AccessSettings().kafka()).give(platform_grants())
    except HeadraceError as error:
        print(f"rights not given yet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
