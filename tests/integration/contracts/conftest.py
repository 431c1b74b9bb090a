"""The registry these tests run against."""

from support.stack import registry_url  # noqa: F401  a fixture
