"""A real broker and registry."""

from __future__ import annotations

from support.stack import kafka, registry_url

__all__ = ["kafka", "registry_url"]
