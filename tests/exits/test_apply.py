"""Applying a policy: a hand-made case for both rules."""

from __future__ import annotations

import numpy as np
import pytest

from usdn_nas.exits.apply import apply
from usdn_nas.exits.outputs import ExitOutputs
from usdn_nas.space.cost import ExitCosts

NAMES = ("a", "b", "final")
OUTPUTS = ExitOutputs(
    np.array([[0.9, 0.5, 0.75, 0.6], [0.8, 0.9, 0.4, 0.7], [0.7, 0.6, 0.5, 0.9]], dtype=np.float32),
    np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 1]], dtype=bool),
    NAMES,
)
COSTS = ExitCosts(NAMES, np.array([10, 20, 30]), np.array([1, 2, 4]))


def test_by_hand() -> None:
    result = apply(OUTPUTS, COSTS, (0.875, 0.875))
    assert result.leaves_at.tolist() == result.answers_at.tolist() == [0, 1, 2, 2]
    assert result.accuracy == 3 / 4
    assert result.average_bops == (11 + 23 + 37 + 37) / 4
    assert result.exit_rates.tolist() == [0.25, 0.25, 0.5]
    assert result.accuracy_leaving.tolist() == [1, 1, 0.5]


def test_a_confidence_equal_to_the_threshold_leaves_and_an_exit_may_stay_empty() -> None:
    result = apply(OUTPUTS, COSTS, (0.5, 1.0))
    assert result.leaves_at.tolist() == [0, 0, 0, 0]
    assert np.isnan(result.accuracy_leaving[1:]).all()


def test_most_confident_answers_where_none_fires() -> None:
    result = apply(OUTPUTS, COSTS, (0.875, 0.875), rule="most-confident")
    assert result.leaves_at.tolist() == [0, 1, 2, 2]
    assert result.answers_at.tolist() == [0, 1, 0, 2]
    assert result.accuracy == 1
    assert result.average_bops == (11 + 23 + 37 + 37) / 4


def test_without_exits() -> None:
    result = apply(OUTPUTS.placed(()), COSTS.placed(()), ())
    assert result.average_bops == 34 and result.accuracy == 3 / 4


def test_wrong_number_of_thresholds() -> None:
    with pytest.raises(ValueError, match="expected 2 thresholds"):
        apply(OUTPUTS, COSTS, (0.5,))
