"""Read settings, run the app."""

from svc_ingest.app import main

if __name__ == "__main__":
    raise SystemExit(main())
