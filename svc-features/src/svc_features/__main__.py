"""Read settings, run the app."""

from svc_features.app import main

if __name__ == "__main__":
    raise SystemExit(main())
