"""What becomes of a model's outputs, and which bundles take text or share batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import deploy
from deploy.bundle import Bundle
from deploy.serving.model import DYNAMIC_QUANTIZER, ServedModel, TensorInfo, serve_model
from deploy.serving.text import TextModel, text_model


def made(*labels: str, several: bool = False) -> TextModel:
    output = TensorInfo("scores" if labels else "embedding", "FP32", (-1, 3))
    return TextModel(None, None, (), 8, output, "y", several, labels)


def test_scores_are_probabilities_of_classes_that_exclude_one_another_or_not() -> None:
    logits = {"y": np.array([[1000.0, 0.0, -1000.0]], np.float32)}
    assert made("a", "b", "c").answer(logits).tolist() == [[1, 0, 0]]
    small = {"y": np.array([[0.0, np.log(3), -1e6]], np.float32)}
    np.testing.assert_allclose(
        made("a", "b", "c", several=True).answer(small), [[0.5, 0.75, 0]], rtol=1e-6
    )
    assert made("value").answer({"y": np.array([[2.5]], np.float32)}).tolist() == [[2.5]]


def test_embeddings_are_means_of_length_one() -> None:
    tokens = {"y": np.array([[[3.0, 0.0], [3.0, 8.0]]], np.float32)}
    np.testing.assert_allclose(made().answer(tokens), [[0.6, 0.8]], rtol=1e-6)
    assert made().answer({"y": np.zeros((1, 2), np.float32)}).tolist() == [[0, 0]]


def served(bundle: Bundle) -> ServedModel:
    with deploy.load(bundle.path) as session:
        return serve_model(bundle, session, max_batch=2, max_tokens=16)


def test_limits_are_those_asked_for(classifier: Bundle) -> None:
    model = served(classifier)
    assert (model.most_rows, model.most_tokens, model.batches) == (2, 16, True)


def test_scales_that_depend_on_the_batch_are_never_shared(classifier: Bundle) -> None:
    calibration = classifier.manifest.calibration.model_copy(
        update={"quantizer": DYNAMIC_QUANTIZER}
    )
    manifest = classifier.manifest.model_copy(update={"calibration": calibration})
    assert not served(replace(classifier, manifest=manifest)).batches


@pytest.mark.parametrize("task", ["fill-mask", "text-generation"])
def test_other_tasks_take_no_text(classifier: Bundle, task: str) -> None:
    entry = classifier.manifest.model.model_copy(update={"task": task})
    manifest = classifier.manifest.model_copy(update={"model": entry})
    assert text_model(classifier, served(classifier)) is not None
    assert text_model(replace(classifier, manifest=manifest), served(classifier)) is None
