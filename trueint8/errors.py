"""The one tree of errors a user can meet; each class has its own exit code.

    TrueInt8Error                1
    ├── ConfigError              2   options, configuration files, refused targets
    ├── UnknownName              3   no engine, estimator, variant or command of that name
    ├── MissingDependency        4   an optional package is not installed
    ├── ExportError              5   checkpoint or ONNX file cannot become a clean graph
    ├── CalibrationError         6   activations or ranges are unusable
    ├── BuildError               7   an engine refused the graph
    ├── RunError                 8   an engine failed while running
    ├── IntegrityError           9   a bundle is not what its manifest says
    ├── DataError                10  text or arrays are missing, empty or malformed
    ├── StorageError             11  the disk is full or not writable
    └── EvidenceError            12  with --strict: figures that do not bear the claim

70 is a defect of ours, 130 is Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations


class TrueInt8Error(Exception):
    """A problem the user can act on.

    Args:
        problem: What is wrong, in one sentence, with the offending value.
        fix: What to type or change.
    """

    exit_code = 1

    def __init__(self, problem: str, *, fix: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  fix: {self.fix}"


class ConfigError(TrueInt8Error):
    """Options or configuration files contradict themselves or what is on disk."""

    exit_code = 2


class UnknownName(TrueInt8Error):
    """A registry has nothing of that name."""

    exit_code = 3


class MissingDependency(TrueInt8Error):
    """An optional package is needed and not installed."""

    exit_code = 4


class ExportError(TrueInt8Error):
    """A checkpoint or ONNX file cannot become a clean graph."""

    exit_code = 5


class CalibrationError(TrueInt8Error):
    """Activations or ranges are unusable."""

    exit_code = 6


class BuildError(TrueInt8Error):
    """An engine refused the graph."""

    exit_code = 7


class RunError(TrueInt8Error):
    """An engine failed while running."""

    exit_code = 8


class IntegrityError(TrueInt8Error):
    """A bundle is not what its manifest says."""

    exit_code = 9


class DataError(TrueInt8Error):
    """Text or arrays are missing, empty or malformed."""

    exit_code = 10


class StorageError(TrueInt8Error):
    """The disk is full or not writable."""

    exit_code = 11


class EvidenceError(TrueInt8Error):
    """A gate found what makes a claim wrong or weak."""

    exit_code = 12
