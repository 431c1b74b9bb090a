"""The stack these tests run against."""

from support.stack import stack  # noqa: F401  a fixture
