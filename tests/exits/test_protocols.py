"""Budgeted batches and overthinking as evaluation.json has them, beside loops over samples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.helpers import random_outputs
from usdn_nas.exits.apply import apply
from usdn_nas.exits.budgeted import SHARES, exit_shares, thresholds_for_shares
from usdn_nas.exits.protocols import budgeted_batches, overthinking_summary
from usdn_nas.exits.summary import Evaluated
from usdn_nas.space.architecture import Rule


def evaluated(rule: Rule = "threshold", exits: int = 4) -> Evaluated:
    test, costs = random_outputs(1, exits, 60)
    search, _ = random_outputs(2, exits, 90)
    return Evaluated(test, search, costs, 10**9, rule)


@pytest.mark.parametrize("rule", ["threshold", "most-confident"])
def test_budgeted_batches_are_fitted_on_search_and_read_on_test(rule: Rule) -> None:
    whole = evaluated(rule)
    rows = budgeted_batches(whole)
    assert [row["ratio"] for row in rows] == list(SHARES)
    for row in rows:
        expected = thresholds_for_shares(whole.search, exit_shares(row["ratio"], 4))
        assert row["thresholds"] == list(expected)
        for outputs, found in ((whole.test, row), (whole.search, row["search"])):
            result = apply(outputs, whole.costs, expected, rule)
            assert (found["accuracy"], found["average_bops"]) == (result.accuracy, result.average_bops)
            assert found["relative_bops"] == result.average_bops / 10**9
        assert sum(row["exit_rates"]) == pytest.approx(1)
    json.dumps(rows, allow_nan=False)


def test_overthinking_and_confusion_by_hand() -> None:
    whole = evaluated()
    generator = np.random.default_rng(0)
    confusion, of_search = generator.random(60), generator.random(90)
    found = overthinking_summary(whole, confusion, of_search)
    assert found is not None
    right = whole.test.correct[-1]
    scores = (confusion - of_search.mean()) / of_search.std()
    assert found["confusion_right"] == pytest.approx(np.mean([s for s, r in zip(scores, right, strict=True) if r]))
    assert found["confusion_wrong"] == pytest.approx(np.mean([s for s, r in zip(scores, right, strict=True) if not r]))
    pairs = [(w > r) + (w == r) / 2 for w in scores[~right] for r in scores[right]]
    assert found["confusion_auroc"] == pytest.approx(np.mean(pairs))
    earlier = whole.test.correct[:-1].any(axis=0)
    assert (found["wasteful"], found["destructive"]) == (np.mean(earlier & right), np.mean(earlier & ~right))
    json.dumps(found, allow_nan=False)


def test_what_is_undefined_is_none() -> None:
    whole = evaluated()
    right = type(whole.test)(whole.test.confidence, np.ones_like(whole.test.correct), whole.test.names)
    found = overthinking_summary(Evaluated(right, right, whole.costs, 1), np.ones(60), np.ones(60))
    assert found is not None and found["confusion_right"] == 0
    assert found["confusion_wrong"] is None and found["confusion_auroc"] is None
    alone = evaluated(exits=1)
    assert budgeted_batches(alone) == [] and overthinking_summary(alone, np.ones(60), np.ones(90)) is None
