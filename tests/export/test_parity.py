"""What counts as the same model, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from export.parity import PARITY_TOLERANCE, compare_outputs
from trueint8.errors import ExportError

Y = np.array([[1.0, -4.0, 2.0]], np.float32)


def test_the_error_is_relative_to_the_largest_output() -> None:
    parity = compare_outputs([(Y, Y + np.float32(0.0002))], [[1, 3]], "torch")
    assert parity.relative_error == pytest.approx(0.0002 / 4, rel=1e-2)
    assert parity.tolerance == PARITY_TOLERANCE


def test_another_function_is_refused() -> None:
    with pytest.raises(ExportError, match="differs from torch by 2"):
        compare_outputs([(Y, Y + np.float32(1.0))], [[1, 3]], "torch")


def test_nan_of_the_graph_alone_is_refused() -> None:
    with pytest.raises(ExportError, match="inf"):
        compare_outputs([(Y, np.full_like(Y, np.nan))], [[1, 3]], "torch")


def test_nan_of_both_is_left_to_calibration() -> None:
    both = np.full_like(Y, np.nan)
    assert compare_outputs([(both, both)], [[1, 3]], "torch").relative_error == 0


def test_another_shape_is_refused() -> None:
    with pytest.raises(ExportError):
        compare_outputs([(Y, Y[:, :2])], [[1, 3]], "torch")
