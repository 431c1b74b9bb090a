"""Read settings, run the app."""

from svc_stream.app import main

if __name__ == "__main__":
    raise SystemExit(main())
