"""Local contrast made even: what light, exposure and a look upside down change, and what they do not."""

import pytest
import torch

from anomalib_gan.contrast import AROUND, CELL, FLOOR, SPREAD, evened


@pytest.fixture
def texture() -> torch.Tensor:
    torch.manual_seed(0)
    return 0.3 * torch.randn(2, 1, 96, 128)


def test_light_and_exposure_do_not_matter(texture: torch.Tensor) -> None:
    again = evened(0.5 * texture - 0.2)
    # all that tells a brighter shot from a darker one is the floor
    assert torch.allclose(again, evened(texture), atol=0.05)
    assert (again - evened(texture)).abs().mean() < 0.01


def test_a_slope_of_light_goes_and_the_texture_stays(texture: torch.Tensor) -> None:
    slope = torch.linspace(-0.5, 0.5, 128).expand_as(texture)
    middle = (..., slice(32, -32), slice(32, -32))
    found, plain = evened(0.3 * texture + slope)[middle], evened(0.3 * texture)[middle]
    kept = torch.corrcoef(torch.stack((found.flatten(), plain.flatten())))[0, 1]
    assert kept > 0.9


def test_texture_has_mean_0_and_the_spread_told(texture: torch.Tensor) -> None:
    found = evened(texture + 0.4)
    assert abs(found.mean()) < 0.02
    assert found.std() == pytest.approx(SPREAD, rel=0.05)


def test_what_has_no_contrast_stays_flat() -> None:
    torch.manual_seed(0)
    assert evened(torch.full((1, 1, 64, 64), 0.7)).abs().max() < 1e-3
    faint = 0.1 * FLOOR * torch.randn(1, 1, 64, 64)
    assert evened(faint).std() < 0.15 * SPREAD


def test_it_commutes_with_mirrors_and_half_turns(texture: torch.Tensor) -> None:
    for axes in ((-1,), (-2,), (-2, -1)):
        assert torch.allclose(evened(texture.flip(axes)), evened(texture).flip(axes), atol=1e-5)


def test_nothing_beyond_its_reach_matters() -> None:
    torch.manual_seed(0)
    s = torch.randn(1, 1, 160, 160).clamp(-1, 1)
    changed = s.clone()
    row = 80
    changed[..., row, 80] += 1
    moved = (evened(changed) - evened(s)).abs().amax((0, 1)).nonzero()
    assert len(moved) > CELL**2
    assert (moved - torch.tensor([row, 80])).abs().max() <= AROUND


def test_every_channel_for_itself(texture: torch.Tensor) -> None:
    both = torch.cat((texture, 0.1 * texture.flip(-1)), 1)
    assert torch.allclose(evened(both)[:, :1], evened(texture), atol=1e-6)
