"""What the detector finds by itself, and how its map is put together."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool2d

from anomalib_gan import mixing
from anomalib_gan.edges import RINGS, along, depths
from anomalib_gan.grain import grain
from anomalib_gan.mixing import SHARE, SIGMAS
from anomalib_gan.model import Defective
from anomalib_gan.models import build
from anomalib_gan.negatives import closer
from anomalib_gan.nets import shrink
from anomalib_gan.residuals import gaussian
from anomalib_gan.scale import lost

SMALL = {"width": 8, "code": 4, "patch": 64}


@pytest.mark.parametrize(("height", "width"), [(12, 15), (3, 20), (1, 1)])
def test_depths_are_distances_from_the_edge(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    expected = torch.stack((rows, columns, height - 1 - rows, width - 1 - columns)).amin(0).clamp(max=RINGS)
    found = depths(torch.randn(2, 3, height, width))
    assert torch.allclose(found[0, 0], expected.float(), atol=1e-4)
    values = torch.rand(3, RINGS + 1)
    assert torch.allclose(along(values, torch.zeros(1, 3, height, width))[0], values[:, expected], atol=1e-4)


@torch.no_grad()
def test_edges_are_standardised_by_themselves_and_the_residuals_tails_are_cut():
    model = build("fcbigan", **SMALL, alpha=0.75, smoothing=2.0).eval()
    torch.manual_seed(0)
    fields = [torch.randn(1, 4, 40, 50) * torch.tensor([1.0, 3.0, 2.0, 1.0])[:, None, None] for _ in range(20)]
    for field in fields:
        field[..., 0, :] += 5  # the top edge is always hotter
        field[..., -1, :] += 5
        field[..., :, 0] += 5
        field[..., :, -1] += 5
    model.standardise(fields)
    for field in fields:
        field[:, 3] = -30  # the fine critic is sure that all is well, and leaves the word to the other
    found = torch.cat([model.relative(field) for field in fields])
    edge, middle = found[..., 0, :], found[..., 10:30, 10:30]
    assert edge[:, 0].mean().abs() < 0.2 and middle[:, 0].mean().abs() < 0.1
    assert edge[:, 0].std() == pytest.approx(1, abs=0.25) and middle[:, 2].std() == pytest.approx(1, abs=0.1)
    assert found[:, 1].abs().max() == model.limit == 1 and found[:, 0].max() > 2


@torch.no_grad()
def test_the_critic_that_is_more_alarmed_counts():
    model = build("fcbigan", **SMALL, alpha=1.0, smoothing=2.0).eval()
    field = torch.zeros(1, 4, 20, 20)
    calm = model.relative(field)[:, 0]
    for channel in (0, 3):
        alarmed = field.clone()
        alarmed[:, channel] = 9.0
        assert torch.allclose(model.relative(alarmed)[:, 0], torch.full_like(calm, 9.0), atol=1e-3)


def test_the_finer_scale_is_looked_at_where_there_is_one():
    assert build("fcbigan", **SMALL).F is not None
    for without in ({"shrink": 1}, {"negatives": 0.0}):
        model = build("fcbigan", **SMALL, **without).eval()
        assert model.F is None and "fine critic" not in model.players()
        assert model.components(torch.zeros(1, 1, 64, 64)).shape[1] == 3
    assert build("fcbigan_source").F is None


def test_a_closer_window_keeps_defects_and_their_masks_together():
    torch.manual_seed(0)
    x, y = torch.randn(4, 1, 64, 64), torch.randn(2, 1, 64, 64)
    found = closer(Defective(x, y, (y > 0).float()), 16)
    assert found.x.shape[-2:] == found.y.shape[-2:] == (32, 32) and len(found.x) == 4
    assert torch.equal(found.mask, (found.y > 0).float())
    windows = x.unfold(2, 32, 1).unfold(3, 32, 1)
    assert (windows == found.x[:, :, None, None]).all(-1).all(-1).all(0).any()  # one place for all of the batch


@torch.no_grad()
def test_a_pit_does_not_drown_in_certainty():
    """A hundredth of a window with log-odds 4 among -8: the mean of the odds is decided by the pit."""
    model = build("fcbigan", **SMALL, alpha=1.0, smoothing=6.0).eval()
    field = torch.full((1, 4, 31, 31), -8.0)
    field[..., 15, 15] = 4.0
    weight = float(gaussian(1.5, field).max() ** 2)
    assert float(model.pooled(field)[0, 0, 15, 15]) == pytest.approx(4 + torch.tensor(weight).log().item(), abs=0.01)
    assert float(model.pooled(field)[0, 1, 15, 15]) == pytest.approx(-8 + 12 * weight, abs=0.01)  # a plain mean


def test_only_the_first_of_the_critics_moves_is_the_games():
    model = build("fcbigan", **SMALL)
    batches = iter(torch.randn(20, 8, 1, 64, 64).clamp(-1, 1))
    moves = list(model.play(batches, 0.5))
    assert [who for who, _ in moves] == ["critic", "fine critic"] * model.critic_steps + ["autoencoder"]
    assert all(set(terms) == {"negatives"} for who, terms in moves if who == "fine critic")
    assert ["adv" in terms for who, terms in moves if who == "critic"] == [True] + [False] * (model.critic_steps - 1)
    plain = build("fcbigan", **SMALL, negatives=0.0)
    assert all("adv" in terms for who, terms in plain.play(batches, 0.5) if who == "critic")


@torch.no_grad()
def test_an_image_upside_down_has_the_map_upside_down():
    torch.manual_seed(0)
    x, model = torch.randn(2, 1, 96, 64).clamp(-1, 1), build("fcbigan", **SMALL).eval()
    down = (-2, -1)

    def both():  # of each image, and back; all but the fine critic's, which looks once
        return model.components(x.flip(down)).flip(down)[:, :3], model.components(x)[:, :3]

    assert torch.allclose(*both(), atol=1e-4)
    model.turned = False
    assert not torch.allclose(*both(), atol=1e-2)
    s = shrink(x, model.shrink)
    assert torch.equal(model.components(x)[:, :3], model.seen(s, model.look(s)))


@torch.no_grad()
def test_settling_finds_smoothing_and_mixing_and_given_ones_stay():
    torch.manual_seed(0)
    normals = [avg_pool2d(torch.randn(1, 1, 260, 260), 5, 1, 2)[..., 2:258, 2:258].clamp(-1, 1) for _ in range(3)]
    found = build("fcbigan", **SMALL)
    found.settle(normals)
    assert found.found["smoothing"] in SIGMAS and 1 - SHARE <= found.found["alpha"] <= 1
    alpha = found.found["alpha"]
    assert torch.allclose(found.weights, torch.tensor([alpha, 1 - alpha, 0.0]), atol=1e-6)
    kept = found.kernel.clone()
    found.settle(normals)
    assert torch.equal(found.kernel, kept)  # the same images, the same settings
    given = build("fcbigan", **SMALL, alpha=0.6, smoothing=3.0, likelihood=0.1)
    given.settle(normals)
    assert given.found == {}
    assert torch.allclose(given.weights, torch.tensor([0.6, 0.4, 0.1]))
    assert given.kernel.sum() == pytest.approx(1) and given.kernel.max() == gaussian(0.75, given.kernel).max()
    useless = build("fcbigan", **SMALL, smoothing=2.0)
    useless.limit = 0.0  # a residual that says nothing
    useless.settle(normals)
    assert useless.found["alpha"] == 1


def test_the_working_scale_fits_the_images():
    torch.manual_seed(0)
    fine = avg_pool2d(torch.randn(1, 1, 900, 900), 3, 1, 1).clamp(-1, 1)
    smooth = torch.nn.functional.interpolate(fine[..., :150, :150], scale_factor=6.0, mode="bicubic").clamp(-1, 1)
    suggest = type(build("fcbigan", **SMALL)).suggest
    assert suggest([fine[0][None]]) == {"shrink": 2, "patch": 192}
    assert suggest([smooth]) == {"shrink": 4, "patch": 384}
    assert suggest([fine[..., :150, :300]] * 3) == {"shrink": 1, "patch": 96}
    assert lost(smooth) < 0.05 < lost(fine)
    noisy = (smooth + 0.05 * torch.randn_like(smooth)).clamp(-1, 1)
    assert lost(noisy) == pytest.approx(lost(smooth), abs=0.05)  # noise is not structure
    assert type(build("fcbigan_source")).suggest([fine]) == {}


@torch.no_grad()
def test_what_lies_along_the_generators_edge_is_not_in_a_sample():
    class Framed(torch.nn.Module):
        def forward(self, z):
            x = torch.zeros(len(z), 1, 8 * z.shape[-2], 8 * z.shape[-1])
            for edge in (x, x.flip(-1)):
                edge[..., :8, :] = edge[..., -8:, :] = edge[..., :8] = edge[..., -8:] = 1
            return x

    model = build("fcbigan", **SMALL).eval()
    model.G = Framed()
    drawn = model.sample(2, 32, 48)
    assert drawn.shape == (2, 1, 32, 48) and not drawn.any()


@torch.no_grad()
def test_where_no_defect_can_be_seen_the_map_is_settled_all_the_same(monkeypatch):
    def nothing(normals, stride):
        return ((x, torch.zeros_like(x[:, :1])) for x in normals)

    monkeypatch.setattr(mixing, "examples_of", nothing)
    model = build("fcbigan", **SMALL).eval()
    torch.manual_seed(0)
    model.settle([0.3 * torch.randn(1, 1, 64, 96)])
    assert model.found == {"smoothing": SIGMAS[0], "alpha": 1 - SHARE}
    assert torch.isfinite(model.anomaly_map(torch.zeros(1, 1, 64, 64))).all()


@torch.no_grad()
def test_samples_are_fitted_to_the_images_and_the_map_knows_nothing_of_it():
    torch.manual_seed(0)
    model = build("fcbigan", **SMALL, alpha=0.75, smoothing=2.0).eval()
    normals = [(0.8 * avg_pool2d(torch.randn(1, 1, 258, 322), 3, 1)).clamp(-1, 1) for _ in range(2)]
    before = model.anomaly_map(normals[0])
    model.grain.copy_(grain(normals, model.shrink))
    model.fit_samples(normals)
    assert torch.equal(model.anomaly_map(normals[0]), before)
    for height, width in ((64, 96), (256, 320)):
        drawn = model.sample(2, height, width)
        assert drawn.shape == (2, 1, height, width) and drawn.abs().max() <= 1
    assert model.uneven.any() and not torch.equal(model.finish, model.equaliser)
    state = torch.get_rng_state()
    model.fit_samples(normals)
    assert torch.equal(torch.get_rng_state(), state)
    assert not {"field", "uneven", "finish"} & set(build("fcbigan_source").state_dict())
