"""Stratified parts: exact sizes, shares off by less than one, no overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usdn_nas._util.errors import UserError
from usdn_nas.config import DataConfig
from usdn_nas.data.stratify import partition, stratified_choice

labels_strategy = st.lists(st.integers(0, 5), min_size=2, max_size=80).map(lambda v: np.array(v, dtype=np.int64))


@given(labels_strategy, st.data())
def test_choice_has_its_size_and_shares(labels, data):
    count = data.draw(st.integers(0, len(labels)))
    chosen = stratified_choice(labels, count, np.random.default_rng(0))
    assert len(chosen) == count == len(np.unique(chosen))
    for value in np.unique(labels):
        share = (labels == value).sum() * count / len(labels)
        assert abs((labels[chosen] == value).sum() - share) < 1


@given(labels_strategy.filter(lambda v: len(v) >= 10), st.integers(0, 9), st.integers(0, 3), st.integers(2, 3))
def test_parts_are_disjoint_and_complete(labels, seed, test, search):
    config = DataConfig(test=test or None, search=search)
    try:
        parts = partition(labels, config, seed, own_test=False)
    except UserError as error:
        assert "no training image is left of class" in str(error)
        parts = partition(labels, config.model_copy(update={"train_limit": 100}), seed, own_test=False)
        assert set(labels) - set(labels[parts.train])
    assert parts.search is not None and parts.test is not None
    assert len(parts.search) == search
    assert len(parts.test) == (test or round(0.2 * len(labels)))
    together = np.concatenate([parts.train, parts.search, parts.test])
    np.testing.assert_array_equal(np.sort(together), np.arange(len(labels)))


def test_train_limit_leaves_the_other_parts_alone():
    labels = np.arange(100) % 4
    whole = partition(labels, DataConfig(), 0, own_test=False)
    limited = partition(labels, DataConfig(train_limit=8), 0, own_test=False)
    np.testing.assert_array_equal(whole.search, limited.search)
    np.testing.assert_array_equal(whole.test, limited.test)
    assert np.bincount(labels[limited.train]).tolist() == [2, 2, 2, 2]
    assert set(limited.train) <= set(whole.train)
    assert len(partition(labels, DataConfig(train_limit=1000), 0, own_test=False).train) == len(whole.train)


def test_a_function_of_the_seed():
    labels = np.arange(100) % 4
    parts = [partition(labels, DataConfig(), seed, own_test=True).search for seed in (0, 0, 1)]
    assert parts[0].tolist() == parts[1].tolist() != parts[2].tolist()


@pytest.mark.parametrize(
    ("settings", "own_test", "message"),
    [
        ({"search": 80}, False, "data.search: 80 images cannot be set aside from 80"),
        ({"test": 100}, False, "data.test: 100 images cannot be set aside from 100"),
        ({"test": 10}, True, "data.test: .* has a test split of its own; leave this key out"),
        ({"search": 1}, True, "data.search: 1 images cannot be set aside from 100 .* to a number from 2 to 99"),
        ({"search": 98}, True, "data: digits: no training image is left of class"),
    ],
)
def test_impossible_parts(settings, own_test, message):
    with pytest.raises(UserError, match=message):
        partition(np.arange(100) % 4, DataConfig(**settings), 0, own_test=own_test)


def test_one_image_a_class():
    with pytest.raises(UserError, match="no training image is left of class"):
        partition(np.arange(10), DataConfig(), 0, own_test=False)
    limited = partition(np.arange(10), DataConfig(train_limit=5), 0, own_test=False)  # a trial run may leave some out
    assert len(limited.train) == 5
