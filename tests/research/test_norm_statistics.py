"""The former statistics, which the record compares with, and the record itself."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "research"))

import norm_statistics
from retraining import RESULTS
from retraining import SCHEMA as RANKING

from usdn_nas._util.files import read_json


def test_former_statistics_are_means_over_batches() -> None:
    norm = nn.BatchNorm2d(2)
    net = nn.Sequential(norm)
    net.set_bits = lambda bits: None
    generator = torch.Generator().manual_seed(0)
    batches = [offset + torch.randn(8, 2, 3, 3, generator=generator) for offset in (-3.0, 0.0, 3.0)]
    norm_statistics.mean_over_batches(net, batches, lambda: [{}])
    means, variances = (torch.stack([getattr(x, f)((0, 2, 3)) for x in batches]).mean(0) for f in ("mean", "var"))
    assert torch.allclose(norm.running_mean, means, atol=1e-6)
    assert torch.allclose(norm.running_var, variances, rtol=1e-5)


def test_record_is_of_the_recorded_retrainings() -> None:
    record = read_json(norm_statistics.RECORD, norm_statistics.SCHEMA)
    ranking = read_json(RESULTS, RANKING)
    assert record["of"] == ranking["digest"]
    former, new = (record["supernets"][name] for name in (norm_statistics.FORMER, norm_statistics.NEW))
    assert former.keys() == new.keys() == {"0", "1", "2"}
    for repeat in new:
        assert former[repeat]["settings"] == new[repeat]["settings"]
        assert former[repeat]["accuracy"].keys() == new[repeat]["accuracy"].keys() == ranking["configurations"].keys()
        differences = [
            b["accuracy"] - a["accuracy"] for a, b in zip(former[repeat]["ladder"], new[repeat]["ladder"], strict=True)
        ]
        assert all(abs(d - row["difference"]) < 1e-9 for d, row in zip(differences, new[repeat]["ladder"], strict=True))
