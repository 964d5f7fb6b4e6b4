"""CycleGAN: two domains that nobody paired, translated into each other, and back to where one came from.

    min over G and F, max over D_X and D_Y of   L_GAN(G, D_Y) + L_GAN(F, D_X) + lambda L_cyc + mu L_id
    L_cyc = E ||F(G(x)) - x||_1 + E ||G(F(y)) - y||_1,   L_id = E ||G(y) - y||_1 + E ||F(x) - x||_1
    map = |G(x) - x|, by default in structure, for a defect may have the grey levels of the material

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

from anomalib_gan.compared import Translating
from anomalib_gan.corruption import corrupt
from anomalib_gan.model import About, Move, Pair, Player, refresh
from anomalib_gan.nets import enlarge, judged, shrink, strided
from anomalib_gan.nets_resnet import ResNet
from anomalib_gan.objectives import objective_of
from anomalib_gan.penalties import r1
from anomalib_gan.replay import Pool
from anomalib_gan.scale import SIDE_OF_PATCH


class CycleGAN(Translating):
    """G: x -> y and F: y -> x by `blocks` residual blocks, D_X and D_Y: an answer for every patch of 38 working pixels.

    `translator`: translates between two domains of which it is given images, and has no map; else x are normal images
    that it spoils itself, y normal ones. `objective`: one of OBJECTIVES. `cycle`, `identity`: lambda and mu; mu is 0
    where all colours are to change. `r1`: weight of a penalty on the critics' slopes at real images (Mescheder et al.,
    2018), not the paper's. `pool`: how many earlier translations each critic has kept for it. `shrink`: the working
    scale is 1/shrink of the image. `residual`: r, "ssim", "l1" or "l2"; `smoothing` of the map: sigma in working
    pixels. `width`: of the layers.
    """

    about = About(
        "makes spoilt images normal; or translates images, both ways, without pairs", "Zhu et al., 2017", "none"
    )
    side_at_scale = SIDE_OF_PATCH
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
        r1: float = 1.0,
        pool: int = 50,
        residual: Literal["ssim", "l1", "l2"] = "ssim",
        smoothing: float = 4.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.channels, self.translator, self.patch, self.batch, self.shrink = channels, translator, patch, batch, shrink
        self.objective, self.cycle, self.identity, self.lr = objective_of(objective), cycle, identity, lr
        self.r1 = r1
        self.G, self.F = ResNet(channels, width, blocks), ResNet(channels, width, blocks)
        self.D_X, self.D_Y = strided(channels, width), strided(channels, width)
        self.drawn_x, self.drawn_y = (Pool(pool, channels, patch // shrink) for _ in "xy")
        if translator:
            self.translates("unpaired")
        self.stride = self.G.stride * shrink
        self.smallest = 2 * self.stride
        self.compare(residual, smoothing, self.G.reach)
        if patch % self.stride:
            raise ValueError(f"a patch of {patch} px has no whole places: let {self.stride} divide it")

    def players(self) -> dict[str, Player]:
        return {
            "generators": Player((self.G, self.F), self.lr, self.betas),
            "critics": Player((self.D_X, self.D_Y), self.lr, self.betas),
        }

    def play(self, batches: Iterator[Any], progress: float) -> Iterator[Move]:
        G, F, D_X, D_Y, objective = self.G, self.F, self.D_X, self.D_Y, self.objective
        x, y = self.domains(batches)  # (N, C, patch / shrink, patch / shrink) each
        # What G shall leave alone passes in one batch with what it shall change: its statistics are those of both.
        fake_y, *same_y = G(torch.cat((x, y)) if self.identity else x).split(len(x))
        fake_x, *same_x = F(torch.cat((y, x)) if self.identity else y).split(len(y))
        with judged(G, F):  # by the same statistics
            again_x, again_y = F(fake_y), G(fake_x)
        terms = {
            "adv_G": objective.generator(D_Y(fake_y)),
            "adv_F": objective.generator(D_X(fake_x)),
            "cycle_x": self.cycle * (again_x - x).abs().mean(),
            "cycle_y": self.cycle * (again_y - y).abs().mean(),
        }
        if self.identity:
            terms["identity"] = self.identity * ((same_y[0] - y).abs().mean() + (same_x[0] - x).abs().mean())
        yield "generators", terms

        fake_x, fake_y = self.drawn_x.exchange(fake_x), self.drawn_y.exchange(fake_y)
        terms = {"adv_X": objective.critic(D_X(x), D_X(fake_x)), "adv_Y": objective.critic(D_Y(y), D_Y(fake_y))}
        if self.r1:
            terms["r1"] = self.r1 * (r1(D_X, x) + r1(D_Y, y))
        yield "critics", terms

    def domains(self, batches: Iterator[Any]) -> tuple[Tensor, Tensor]:
        """x and y at the working scale, unpaired: a translator's are given, else x are spoilt here."""
        batch = next(batches)
        if isinstance(batch, Pair):
            return shrink(batch.x, self.shrink), shrink(batch.y, self.shrink)
        return corrupt(shrink(batch, self.shrink))[0], shrink(next(batches), self.shrink)

    def rebuilt(self, s: Tensor) -> Tensor:
        return self.G(s)

    def coded(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return self.G.code(s), self.G(s)

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
