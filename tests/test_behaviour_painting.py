"""What a painter promises: where the mask is there is a defect, elsewhere nothing, and every code has another."""

from __future__ import annotations

import pytest
import torch
from test_laws import batches_of, stripes

from anomalib_gan.augmenting import WithDefects
from anomalib_gan.data import Crops
from anomalib_gan.models import build
from anomalib_gan.training import Trainer

SIDE = 96


def trained(batches, steps, **params):
    torch.manual_seed(0)
    model = build("mask_gan", **{"width": 16, "code": 4, "patch": 48, "batch": 8, "shrink": 1, **params})
    trainer = Trainer(model, batches(model), steps, seed=0)
    for _ in trainer:
        pass
    return trainer.finish([x for n in range(8) for x in one_by_one(trainer.batches(n))])


def one_by_one(batch):
    if isinstance(batch, torch.Tensor):
        return batch.split(1)
    return [type(batch)(*one) for one in zip(*(field.split(1) for field in batch), strict=True)]


@pytest.fixture(scope="module")
def painter():
    return trained(batches_of, 200)


def masks():
    """Shapes that corruption draws none of: a ring, a cross, a box."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    away = torch.hypot(rows - 44.0, columns - 52.0)
    ring = (away > 14) & (away < 24)
    down, across = (rows - 40).abs(), (columns - 48).abs()
    cross = (down < 4) & (across < 25) | (across < 4) & (down < 25)
    box = (rows > 30) & (rows < 58) & (columns > 20) & (columns < 70)
    return torch.stack((ring, cross, box))[:, None].float()


def material():
    """Images that no training saw, one for each mask."""
    torch.manual_seed(99)
    return torch.cat([stripes(SIDE, SIDE, phase=0.3 + k) for k in range(3)])


@pytest.mark.slow
@torch.no_grad()
def test_a_defect_lies_where_its_mask_is_and_the_image_stays_elsewhere(painter):
    x, m = material(), masks()
    torch.manual_seed(3)
    change = torch.stack([(painter.paint(x, m, painter.prior(3)) - x).abs() for _ in range(8)]).mean(0)
    for one, mask in zip(change, m, strict=True):
        inside, outside = one[mask > 0].mean(), one[mask == 0].mean()
        assert inside >= 5 * outside and inside > 0.1, (float(inside), float(outside))


@pytest.mark.slow
@torch.no_grad()
def test_another_code_is_another_defect_and_the_same_one_the_same(painter):
    x, m = material(), masks()
    torch.manual_seed(4)
    z = painter.prior(3)
    one, again = painter.paint(x, m, z), painter.paint(x, m, z)
    assert torch.equal(one, again)
    apart = torch.stack([(painter.paint(x, m, painter.prior(3)) - one).abs() for _ in range(8)]).mean(0)
    changed = (one - x).abs()
    assert apart[m > 0].mean() > 0.25 * changed[m > 0].mean()
    assert apart[m > 0].mean() > 5 * apart[m == 0].mean()


@pytest.mark.slow
@torch.no_grad()
def test_an_empty_mask_changes_hardly_anything(painter):
    x, m = material(), masks()
    torch.manual_seed(5)
    z = painter.prior(3)
    nothing, something = ((painter.paint(x, one, z) - x).abs() for one in (torch.zeros_like(m), m))
    assert nothing.mean() < 0.02 and nothing.mean() < something[m > 0].mean() / 20


@torch.no_grad()
def test_a_window_as_wide_as_the_halo_is_painted_as_the_whole_image_is_and_a_spec_rebuilds_the_painter():
    params = {"width": 8, "code": 3, "patch": 32, "batch": 2, "shrink": 2}
    torch.manual_seed(1)
    model, again = (build("mask_gan", **params).eval() for _ in range(2))
    again.load_state_dict(model.state_dict())
    x, m, z = stripes(256, 320), torch.zeros(1, 1, 256, 320), model.prior(1)
    m[..., 120:128, 150:164] = 1
    whole = model.paint(x, m, z)
    assert torch.equal(whole, again.paint(x, m, z))
    top, left, bottom, right = 120 - model.halo, 144 - model.halo, 128 + model.halo, 168 + model.halo
    here = (..., slice(top, bottom), slice(left, right))
    part = model.paint(x[here], m[here], z)
    core = (..., slice(model.halo, -model.halo), slice(model.halo, -model.halo))
    assert torch.allclose(part[core], whole[here][core], atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_who_learnt_from_dark_defects_paints_dark_ones():
    def batches(model):
        torch.manual_seed(7)
        normals = [(stripes(96, 96, phase=k)[0] + 1) / 2 for k in range(3)]
        spoilt = []
        for k, x in enumerate(normals):
            mask = torch.zeros(96, 96, dtype=torch.bool)
            mask[20 + 9 * k : 44 + 9 * k, 30:60] = True
            spoilt.append((torch.where(mask, 0.05 * torch.rand(96, 96), x), mask))
        return WithDefects(Crops(normals, model.patch, model.batch, jitter=0.0), spoilt)

    with torch.enable_grad():
        painter = trained(batches, 200)
    x, m = material(), masks()
    torch.manual_seed(8)
    y = painter.paint(x, m, painter.prior(3))
    assert y[m > 0].mean() < -0.6 and (y - x)[m == 0].abs().mean() < 0.1
