"""The broker and the registry these tests run against."""

from support.stack import kafka, registry_url  # noqa: F401  fixtures
