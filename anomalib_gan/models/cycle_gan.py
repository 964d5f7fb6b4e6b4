"""CycleGAN: two domains that nobody paired, translated into each other, and back to where one came from.

    min over G and F, max over D_X and D_Y of   L_GAN(G, D_Y) + L_GAN(F, D_X) + lambda L_cyc + mu L_id
    L_cyc = E ||F(G(x)) - x||_1 + E ||G(F(y)) - y||_1,   L_id = E ||G(y) - y||_1 + E ||F(x) - x||_1
    map = r(G(x), x), by default |G(x) - x|

for G: X -> Y, F: Y -> X, and L_GAN by least squares; the critics also learn from a pool of earlier translations.
Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu et al., 2017). As a detector X are
normal images with synthetic defects and Y normal ones, and the map is what G changes.

What it cannot do: geometry. It repaints what lies where it lies, its colour, contrast and texture; it moves, turns and
enlarges nothing, and makes no shape of another. G sees no farther than its reach, cycle and identity are cheapest where
everything stays in its place, and no unpaired image tells what should go where (the paper's own failures, section 6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from anomalib_gan.corruption import corrupt
from anomalib_gan.model import About, Model, Move, Pair, Player, refresh
from anomalib_gan.nets import enlarge, judged, shrink, strided
from anomalib_gan.nets_resnet import STRIDE, reach, resnet
from anomalib_gan.objectives import objective_of
from anomalib_gan.replay import Pool
from anomalib_gan.residuals import RESIDUALS, smooth
from anomalib_gan.scale import SIDE_OF_PATCH, working_scale

WINDOW = 4  # radius of SSIM's window


class CycleGAN(Model):
    """G: x -> y and F: y -> x by `blocks` residual blocks, D_X and D_Y: an answer for every patch of 38 working pixels.

    `translator`: translates between two domains of which it is given images, and has no map; else x are normal images
    that it spoils itself, y normal ones. `objective`: one of OBJECTIVES. `cycle`, `identity`: lambda and mu. `pool`:
    how many earlier translations each critic has kept for it. `shrink`: the working scale is 1/shrink of the image.
    `residual`: r, "ssim", "l1" or "l2"; `smoothing` of the map: sigma in working pixels. `width`: of the layers.
    """

    about = About(
        "makes spoilt images normal; or translates images, both ways, without pairs", "Zhu et al., 2017", "none"
    )
    betas = (0.5, 0.999)

    def __init__(
        self,
        channels: int = 1,
        translator: bool = False,
        width: int = 16,
        blocks: int = 4,
        patch: int = SIDE_OF_PATCH,
        batch: int = 4,
        shrink: int = 1,
        objective: str = "least-squares",
        cycle: float = 10.0,
        identity: float = 5.0,
        pool: int = 50,
        residual: Literal["ssim", "l1", "l2"] = "l1",
        smoothing: float = 4.0,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.channels, self.translator, self.patch, self.batch, self.shrink = channels, translator, patch, batch, shrink
        self.objective, self.cycle, self.identity, self.lr = objective_of(objective), cycle, identity, lr
        self.residual, self.smoothing = residual, smoothing
        self.G, self.F = resnet(channels, width, blocks), resnet(channels, width, blocks)
        self.D_X, self.D_Y = strided(channels, width), strided(channels, width)
        self.drawn_x, self.drawn_y = (Pool(pool, channels, patch // shrink) for _ in "xy")
        if translator:
            self.pairs = "unpaired"
            self.mapped = self.exportable = (
                "it translates images, which says nothing of how normal they are; `anomalib-gan translate` applies it"
            )
        self.stride, self.smallest = STRIDE * shrink, 2 * STRIDE * shrink
        around = reach(blocks) + 2 + (0 if translator else WINDOW + 3 * smoothing)
        self.halo = self.stride * -int(-around * shrink // self.stride)
        if patch % self.stride:
            raise ValueError(f"a patch of {patch} px has no whole places: let {self.stride} divide it")

    @classmethod
    def suggest(cls, normals: Sequence[Tensor], flips: bool = True) -> dict[str, Any]:
        scale = working_scale(normals)
        return {"shrink": scale, "patch": SIDE_OF_PATCH * scale}

    def players(self) -> dict[str, Player]:
        return {
            "generators": Player((self.G, self.F), self.lr, self.betas),
            "critics": Player((self.D_X, self.D_Y), self.lr, self.betas),
        }

    def play(self, batches: Iterator[Any], progress: float) -> Iterator[Move]:
        G, F, D_X, D_Y, objective = self.G, self.F, self.D_X, self.D_Y, self.objective
        x, y = self.domains(batches)  # (N, C, patch / shrink, patch / shrink) each
        fake_y, same_y = G(torch.cat((x, y))).chunk(2)  # in one batch, so that G's statistics are those of both
        fake_x, same_x = F(torch.cat((y, x))).chunk(2)
        with judged(G, F):  # by the same statistics
            again_x, again_y = F(fake_y), G(fake_x)
        yield (
            "generators",
            {
                "adv_G": objective.generator(D_Y(fake_y)),
                "adv_F": objective.generator(D_X(fake_x)),
                "cycle_x": self.cycle * (again_x - x).abs().mean(),
                "cycle_y": self.cycle * (again_y - y).abs().mean(),
                "identity": self.identity * ((same_y - y).abs().mean() + (same_x - x).abs().mean()),
            },
        )
        fake_x, fake_y = self.drawn_x.exchange(fake_x), self.drawn_y.exchange(fake_y)
        yield (
            "critics",
            {"adv_X": objective.critic(D_X(x), D_X(fake_x)), "adv_Y": objective.critic(D_Y(y), D_Y(fake_y))},
        )

    def domains(self, batches: Iterator[Any]) -> tuple[Tensor, Tensor]:
        """x and y at the working scale, unpaired: a translator's are given, else x are spoilt here."""
        batch = next(batches)
        if isinstance(batch, Pair):
            return shrink(batch.x, self.shrink), shrink(batch.y, self.shrink)
        return corrupt(shrink(batch, self.shrink))[0], shrink(next(batches), self.shrink)

    def anomaly_map(self, x: Tensor) -> Tensor:
        s = shrink(x, self.shrink)
        return self.changed(self.G(s), s)

    def changed(self, again: Tensor, s: Tensor) -> Tensor:
        """The map at the size of the image, of s and what G made of it."""
        if self.mapped is not True:
            raise ValueError(f"there is no map: {self.mapped}")
        return enlarge(smooth(RESIDUALS[self.residual](again, s), self.smoothing), self.shrink)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """Of (N, C, H, W): the image made normal, the codes in the middle of G, and the map."""
        s = shrink(x, self.shrink)
        inward, outward = self.G
        code = inward(s)  # (N, 4 width, h / 4, w / 4)
        again = outward(code)
        return {"reconstruction": enlarge(again, self.shrink), "code": code, "residual": self.changed(again, s)}

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.translate(x)

    def translate(self, x: Tensor, back: bool = False) -> Tensor:
        """G(x) or, `back`, F(x): images of the other domain, both (N, C, H, W) in [-1, 1]."""
        return enlarge((self.F if back else self.G)(shrink(x, self.shrink)), self.shrink)

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """D_Y's, of normal images and of spoilt ones that were made normal."""
        s = shrink(x, self.shrink)
        return self.D_Y(s), self.D_Y(self.G(corrupt(s)[0]))

    @torch.no_grad()
    def settle(self, normals: Sequence[Any]) -> None:
        refresh(self, normals)
        for pool in (self.drawn_x, self.drawn_y):  # only training needs them
            pool.empty()
