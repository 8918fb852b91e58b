"""ECE and MCE beside torchmetrics, AUROC beside scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from usdn_nas.exits.calibration import auroc, calibration, fit_temperature


def sample(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 0.999, n).astype(np.float32)
    return confidence, rng.random(n) < confidence**2


def torchmetrics_error(confidence: np.ndarray, correct: np.ndarray, norm: str) -> float:
    return float(
        binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).int(), n_bins=15, norm=norm)  # type: ignore[arg-type]
    )


def test_beside_torchmetrics() -> None:
    confidence, correct = sample()
    result = calibration(confidence, correct)
    assert result.ece == pytest.approx(torchmetrics_error(confidence, correct, "l1"), abs=1e-6)
    assert result.mce == pytest.approx(torchmetrics_error(confidence, correct, "max"), abs=1e-6)
    assert result.signed_gap == pytest.approx(float(confidence.mean() - correct.mean()), abs=1e-6)
    assert sum(b.count for b in result.bins) == result.n == 2000


def test_confidence_of_exactly_one_is_in_the_last_bin() -> None:
    # .95 and wrong, 1.0 and right: in one bin (ours) the errors cancel to .475; apart (torchmetrics: [lo, hi), and
    # [1.0, ...) is a sixteenth bin) they are .95 and 0.
    confidence, correct = np.array([0.95, 1.0], dtype=np.float32), np.array([False, True])
    ours = calibration(confidence, correct)
    assert ours.bins[-1].count == 2
    assert ours.mce == ours.ece == pytest.approx(0.475)
    assert torchmetrics_error(confidence, correct, "max") == pytest.approx(0.95)


def test_bins_are_closed_above() -> None:
    result = calibration([0.5, 0.0], [True, False], bins=2)
    assert [b.count for b in result.bins] == [2, 0]
    assert result.bins[1].accuracy is None and result.bins[1].confidence is None
    with pytest.raises(ValueError, match="N >= 1"):
        calibration([], [])


def test_auroc_beside_scikit_learn_and_pairs() -> None:
    confidence, correct = sample(200)
    pairs = confidence[correct][:, None] - confidence[~correct]
    assert auroc(confidence, correct) == pytest.approx(float((np.sign(pairs) + 1).mean() / 2))
    assert auroc(confidence, correct) == pytest.approx(roc_auc_score(correct, confidence))
    assert np.isnan(auroc([0.1, 0.2], [True, True]))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 5)) * 3
    chances = np.exp(logits / temperature)
    chances /= chances.sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > rng.random((len(logits), 1))).argmax(axis=1)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.03)
    losses = [
        float(torch.nn.functional.cross_entropy(torch.tensor(logits) / t, torch.tensor(labels)))
        for t in (found, 0.98 * found, 1.02 * found)
    ]
    assert losses[0] == min(losses)


def test_a_temperature_without_bound_ends_at_the_bound() -> None:
    assert fit_temperature(np.eye(3), [0, 1, 2]) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(np.eye(3), [1, 2, 0]) == pytest.approx(20.0, rel=1e-3)
