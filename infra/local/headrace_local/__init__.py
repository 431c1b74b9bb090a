"""The local stack: broker, registry, trace store, database and the seven services as plain processes on this machine."""

from headrace_local.errors import LauncherError
from headrace_local.settings import COMPONENTS, INFRASTRUCTURE, SERVICES, Layout, Ports
from headrace_local.stack import Stack, clone_root

__all__ = ["COMPONENTS", "INFRASTRUCTURE", "SERVICES", "LauncherError", "Layout", "Ports", "Stack", "clone_root"]
