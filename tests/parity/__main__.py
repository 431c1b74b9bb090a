"""`python -m parity [--quick] [--seed N]`, what `make parity` runs."""

from __future__ import annotations

from parity.run import main

if __name__ == "__main__":
    main()
