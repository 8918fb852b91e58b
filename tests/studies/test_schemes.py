"""The learning rates of shipped studies beside loops as the authors wrote them."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR

from usdn_nas.config import find_toml, load_study
from usdn_nas.training.loop import learning_rate


def rates_of_sdn() -> list[float]:
    """Epochs count from 1, and the schedule steps before an epoch's training: github.com/yigitcankaya."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = MultiStepLR(optimizer, [35, 60, 85], gamma=0.1)
    rates = []
    for _ in range(1, 101):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize("study", ["cifar10_sdn_own_scheme", "cifar100_sdn_own_scheme"])
@pytest.mark.parametrize("part", ["pretrain", "qat"])
def test_sdn_lowers_its_rate_where_its_authors_do(study: str, part: str) -> None:
    settings = getattr(load_study(find_toml(study, "studies"))[0].supernet, part)
    rates = [learning_rate(settings, step=7 * epoch, steps=700, steps_per_epoch=7) for epoch in range(100)]
    assert rates == pytest.approx(rates_of_sdn())
