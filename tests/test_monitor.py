"""The monitor: silent where a training went well, and loud, from normal images alone, where it did not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from anomalib_gan.model import Model
from anomalib_gan.monitor import troubles


class Knowing(Model):
    """A detector of what is far from a striped material, and a generator of it."""

    channels, stride, halo, patch, batch = 1, 8, 8, 64, 1
    blind = same = False

    def anomaly_map(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x) if self.blind else (x - stripes(*x.shape[-2:], noise=0)).abs()

    def sample(self, n: int, height: int, width: int) -> Tensor:
        phases = torch.zeros(n) if self.same else 6 * torch.rand(n)
        return torch.cat([stripes(height, width, float(phase), 0.0) for phase in phases])


def stripes(height, width, phase=0.0, noise=0.05):
    rows = torch.arange(height)[:, None].expand(height, width)
    grain = noise * torch.randn(height, width) if noise else 0.0
    return (0.5 * torch.sin(rows / 4 + phase) + grain)[None, None]


def normals(count, shift=0.0):
    torch.manual_seed(count)
    return [stripes(64, 96) + shift for _ in range(count)]


def test_a_good_model_is_left_in_peace_and_randomness_is_left_alone():
    training, unseen = normals(4), normals(3)
    state = torch.random.get_rng_state()
    model = Knowing()
    model.sample = lambda n, h, w: torch.cat(  # type: ignore[method-assign]
        [torch.roll(stripes(h, w), int(torch.randint(h, ())), 2) for _ in range(n)]
    )
    assert [one for one in troubles(model, training, unseen) if "map" in one or "look less" in one] == []
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: setattr(model, "blind", True), "finds synthetic defects poorly"),
        (lambda model: setattr(model, "same", True), "draws nearly the same"),
    ],
)
def test_what_went_bad_is_told(change, said):
    model = copy.deepcopy(Knowing())
    before = troubles(model, normals(4), normals(3))
    change(model)
    after = troubles(model, normals(4), normals(3))
    assert not any(said in one for one in before) and any(said in one for one in after)


def test_unseen_images_that_look_less_normal_are_told():
    assert not any("look less normal" in one for one in troubles(Knowing(), normals(4), normals(3)))
    found = troubles(Knowing(), normals(4), normals(3, shift=0.3))
    assert any("look less normal" in one and "spreads" in one for one in found)
    assert not any("look less normal" in one for one in troubles(Knowing(), normals(4), []))
