"""One file per place where a study's jobs run; each defines ``BACKEND``, a class.

It takes the number of builds at a time, or None for its own choice, and is a
:class:`deploy.study.jobs.Backend`.
"""

from __future__ import annotations

from trueint8.registry import Registry

BACKENDS = Registry("backend", "deploy.study.backends", "BACKEND")
