"""``python -m deploy``: the command line, for launchers that start a module."""

from __future__ import annotations

from deploy.cli import main

main()
