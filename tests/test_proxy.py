"""The proxy ranks maps as they deserve, without a real defect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomalib_gan import corruption
from anomalib_gan.corruption import corrupt_held_out, smooth_noise
from anomalib_gan.model import Model
from anomalib_gan.proxy import pieces_of, proxy, spoil, whole, with_one


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
    x = (0.4 * smooth_noise(96, 128, 8, torch.zeros(1))).clamp(-1, 1)  # without noise every change is visible
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


def test_one_defect_lies_within_its_square_and_nothing_else_changes():
    torch.manual_seed(0)
    x = 0.4 * smooth_noise(260, 300, 8, torch.zeros(1))
    image, opacity = with_one(x, 1, corrupt_held_out)
    rows, columns = (opacity[0, 0] > 0).nonzero().T
    assert (opacity > 0.2).sum() >= 6 and rows.max() - rows.min() < 192 > columns.max() - columns.min()
    change = (image - x).abs()
    assert change[opacity == 0].mean() < 0.01 * change[opacity > 0.2].mean()
    beyond = (change > 1e-6)[0, 0].nonzero()
    assert ((beyond.max(0).values - beyond.min(0).values) < 192).all()


def test_a_map_that_knows_the_defect_tells_every_image_with_one_and_noise_tells_none():
    torch.manual_seed(0)
    normals = [0.3 * smooth_noise(480, 272, 24, torch.zeros(1)) for _ in range(10)]
    clean = torch.cat([piece for x in normals for piece in pieces_of(x, 8)])

    class Knows(Told):
        def anomaly_map(self, x: Tensor) -> Tensor:
            change = (x - clean).abs().sum(1, keepdim=True)
            nearest = change.flatten(1).sum(1).argmin()
            noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(int(1e6 * x.abs().mean())))
            return self.knows * change[nearest] + (1 - self.knows) * noise

    told, noise = whole(Knows(1.0), normals[:2], spoilt=8), whole(Knows(0.0), normals, spoilt=40)
    assert set(told) == {name + size for name in ("pit", "crack", "blob", "bump", "scratch") for size in ("", ", 1/2")}
    assert all(one["image"] > 0.95 and one["hit"] > 0.95 and one["pixel"] > 0.6 for one in told.values()), told
    assert all(0.25 < one["image"] < 0.75 and one["hit"] == 0.0 for one in noise.values())
    with pytest.raises(ValueError, match="at least"):
        whole(Told(1.0), [torch.zeros(1, 1, 4, 4)])


def test_pieces_cover_an_image_but_for_what_is_less_than_a_stride():
    x = torch.arange(700 * 205.0).reshape(1, 1, 700, 205)
    pieces = list(pieces_of(x, 16))
    assert [tuple(piece.shape[-2:]) for piece in pieces] == [(224, 192)] * 3
    assert torch.equal(torch.cat(pieces, -2), x[..., :672, :192])


def test_a_family_of_which_nothing_can_be_seen_is_left_out(monkeypatch):
    def unseen(x, *args, **kwargs):
        return x, torch.zeros_like(x[:, :1])

    monkeypatch.setattr(corruption, "spoil", unseen)
    assert whole(Told(0.5), [flat(0)], spoilt=4) == {}
