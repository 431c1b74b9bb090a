"""The real components these tests run against."""

from support.stack import kafka, zipkin  # noqa: F401  fixtures
