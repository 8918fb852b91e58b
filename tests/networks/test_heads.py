"""What heads compute."""

from __future__ import annotations

import pytest
import torch

from usdn_nas.networks.heads import build_head


def test_sdn_mixes_max_and_average_by_a_learned_share() -> None:
    torch.manual_seed(0)
    head = build_head("sdn", (3, 8, 8), 5, width=None, stem_width=8)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        head.pool.mix.fill_(0.7)
        share = 1 / (1 + torch.exp(torch.tensor(-0.7)))
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
        mixed = share * windows.amax(-1) + (1 - share) * windows.mean(-1)
        expected = mixed.flatten(1) @ head.linear.weight.T + head.linear.bias
        assert torch.allclose(head(x), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "sdn", "conv", "msdnet", "conv3"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 3), (4, 7, 7), (2, 16, 5)])
def test_every_head_takes_every_shape(kind: str, shape: tuple[int, int, int]) -> None:
    head = build_head(kind, shape, 5, width=6, stem_width=8).eval()
    assert head(torch.randn(2, *shape)).shape == (2, 5)


def test_heads_read_the_last_tensor_of_the_state() -> None:
    head = build_head("linear", (3, 2, 2), 5, width=None, stem_width=8)
    fine, coarse = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    assert torch.equal(head(fine, coarse), head(coarse))
