"""One file per command; each defines ``COMMAND``."""

from __future__ import annotations

from trueint8.registry import Registry

COMMANDS = Registry("command", "deploy.commands", "COMMAND")
