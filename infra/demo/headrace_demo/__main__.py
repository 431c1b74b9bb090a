"""`python -m headrace_demo [--keep] [--null] [--seed N]`, what `make demo` runs."""

from __future__ import annotations

from headrace_demo.run import main

if __name__ == "__main__":
    main()
