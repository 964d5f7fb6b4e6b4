"""The proxy ranks maps as they deserve, without a real defect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomalib_gan.corruption import corrupt_held_out, smooth_noise
from anomalib_gan.model import Model
from anomalib_gan.proxy import proxy, spoil


class Told(Model):
    """A map that is told the clean image: `knows` of it is the truth, the rest noise."""

    channels, stride, halo, patch, batch = 1, 8, 8, 64, 1

    def __init__(self, knows: float) -> None:
        super().__init__()
        self.knows = knows

    def anomaly_map(self, x: Tensor) -> Tensor:
        return self.knows * x.abs() + (1 - self.knows) * torch.randn_like(x)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        return {"reconstruction": x, "noise": torch.randn_like(x), "code": x[..., ::8, ::8]}


def flat(seed, side=136):
    return torch.zeros(1, 1, side, side + 8 * seed)


def test_the_better_a_map_knows_the_spoilt_pixels_the_higher_it_stands_and_noise_stands_at_one_half():
    normals = [flat(seed) for seed in range(3)]
    bright = lambda x: (x + 0.5 * corrupt_held_out(x)[1], corrupt_held_out(x)[1])  # noqa: E731
    same = lambda x: (lambda mask: (x + 0.5 * mask, mask))(corrupt_held_out(x)[1])  # noqa: E731
    found = [proxy(Told(knows), normals, trials=12, corruption=same) for knows in (0.0, 0.6, 1.0)]
    assert found[0]["map"] == pytest.approx(0.5, abs=0.05) == found[2]["noise"]
    assert found[0]["map"] + 0.1 < found[1]["map"] < found[2]["map"]
    assert found[2]["map"] > 0.99
    assert set(found[0]) == {"map", "noise"}  # neither what is no map nor the codes
    assert proxy(Told(1.0), normals, trials=12, corruption=bright)["map"] < 0.9  # where the truth is another's


@pytest.mark.parametrize("scale", [1, 2])
def test_only_what_is_spoilt_changes_and_keeps_its_detail(scale):
    torch.manual_seed(scale)
    x = 0.4 * smooth_noise(96, 128, 8, torch.zeros(1))  # without noise every change is visible
    spoilt, opacity = spoil(x, scale, corrupt_held_out)
    assert spoilt.shape == x.shape == opacity.shape
    assert (spoilt - x)[opacity == 0].abs().mean() < 0.01 * (spoilt - x)[opacity > 0.2].abs().mean()
    assert not torch.allclose(spoilt[opacity > 0.2], x[opacity > 0.2], atol=0.01)


def test_it_repeats_leaves_the_randomness_alone_and_refuses_what_is_too_small():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = proxy(Told(0.5), [flat(0)], trials=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first == proxy(Told(0.5), [flat(0)], trials=4)
    with pytest.raises(ValueError, match="at least 8 pixels"):
        proxy(Told(0.5), [torch.zeros(1, 1, 7, 64)])
