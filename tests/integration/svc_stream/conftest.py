"""The broker these tests run against."""

from support.stack import kafka  # noqa: F401  a fixture
