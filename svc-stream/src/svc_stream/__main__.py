"""Read settings, run the app."""

import os

# One worker is one core: batches are small in steady flow, and waking a pool costs more than they do.
os.environ.setdefault("POLARS_MAX_THREADS", "1")

if __name__ == "__main__":
    from svc_stream.app import main

    raise SystemExit(main())
