"""Autoencoder: what a narrow code cannot tell of an image was not in the normal ones.

    z = E(s),   s^ = G(z),   min over E and G of  ||s^ - s|| + lambda R(s^),   map = ||s^ - s|| per pixel

Reducing the Dimensionality of Data with Neural Networks (Hinton and Salakhutdinov, 2006); as a detector, with the
structural residual: Improving Unsupervised Defect Segmentation by Applying Structural Similarity to Autoencoders
(Bergmann et al., 2019). The stacked kind is trained layer by layer: Greedy Layer-Wise Training of Deep Networks (Bengio
et al., 2007).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from anomalib_gan.compared import Coded
from anomalib_gan.model import About, Move, Player
from anomalib_gan.nets import encoder, generator, perceptrons, shrink
from anomalib_gan.penalties import edge_gap, total_variation
from anomalib_gan.residuals import RESIDUALS

SIDE = 8  # of a patch, and the convolutional codes' stride, in working pixels
REACH = {"conv": 38, "mlp": SIDE - 1, "stacked": SIDE - 1}  # working pixels from s to what it can change in G(E(s))
GREEDY = 0.5  # share of the training in which the stacked layers learn by themselves

REGULARISERS = {"tv": lambda again, s: total_variation(again), "edges": edge_gap}


class AE(Coded):
    """E: image -> field of codes, G: field of codes -> image; `code` numbers for 8 x 8 working pixels.

    `kind`: "conv" for convolutions that see beyond those pixels, "mlp" for one hidden layer on each patch of the grid
    by itself, "stacked" for three ever narrower ones, trained greedily at first. `shrink`: the working scale is
    1/shrink of the image. `residual`: what the reconstruction and the map are measured by, "ssim", "l1" or "l2".
    `regulariser` R of the reconstruction with its `weight` lambda: "none", "tv" (total variation: smooth) or "edges"
    (as strong as the image's: sharp). `smoothing` of the map: sigma in working pixels. `width`: of the layers. The code
    is narrower than the patch, else a ValueError: it could copy everything, defects too.
    """

    about = About("what a narrow code cannot tell of an image is not normal", "Bergmann et al., 2019", "none")
    overcomplete = False  # of subclasses that something else than the code's width keeps from copying

    def __init__(
        self,
        channels: int = 1,
        kind: Literal["conv", "mlp", "stacked"] = "conv",
        code: int = 16,
        width: int = 64,
        patch: int = 192,
        batch: int = 8,
        shrink: int = 2,
        residual: Literal["ssim", "l1", "l2"] = "ssim",
        regulariser: Literal["none", "tv", "edges"] = "none",
        weight: float = 0.1,
        smoothing: float = 6.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.batch, self.shrink = channels, patch, batch, shrink
        self.kind, self.regulariser, self.weight, self.lr = kind, regulariser, weight, lr
        pixels = channels * SIDE**2
        if code >= pixels and not self.overcomplete:
            raise ValueError(f"a code of {code} numbers can copy a patch of {pixels}: give a code below {pixels}")
        if kind == "conv":
            widths = (width // 2, width, 3 * width // 2)
            self.E, self.G = encoder(channels, widths, code), generator(code, widths, channels)
        elif kind == "mlp":
            self.E, self.G = perceptrons((pixels, 4 * width, code), SIDE)
        else:
            self.E, self.G = perceptrons([round(pixels + (code - pixels) * i / 3) for i in range(4)], SIDE)
        self.stride = SIDE * shrink
        self.compare(residual, smoothing, REACH[kind])

    def players(self) -> dict[str, Player]:
        return {"autoencoder": Player((self.E, self.G), self.lr, (0.9, 0.99))}

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        s = shrink(next(batches), self.shrink)
        if self.kind == "stacked" and progress < GREEDY:
            yield "autoencoder", self.greedy(s)
            return
        z = self.E(self.shown(s))
        yield "autoencoder", self.terms(s, z, self.G(z))

    def shown(self, s: Tensor) -> Tensor:
        """What E sees of s in training, and a stacked layer of what is below it."""
        return s

    def terms(self, s: Tensor, z: Tensor, again: Tensor) -> dict[str, Tensor]:
        terms = {"rec": self.distance(again, s)}
        if self.regulariser != "none":
            terms[self.regulariser] = self.weight * REGULARISERS[self.regulariser](again, s)
        return terms

    def greedy(self, s: Tensor) -> dict[str, Tensor]:
        """Each layer of E, with its counterpart in G, is an autoencoder of what the layers below it give, which do not
        hear of it. All learn at once rather than in turn, so that none waits for its share of the time.
        """
        terms, below = {}, s
        for depth, (down, up) in enumerate(zip(self.E, reversed(self.G), strict=True), 1):
            above = down(self.shown(below))
            terms[f"layer {depth}"] = (up(above) - below).square().mean()
            below = above.detach()
        return terms

    def distance(self, again: Tensor, s: Tensor) -> Tensor:
        """||s^ - s||, squared for L2. SSIM alone would leave the level of grey nearly free, so L1 stands beside it."""
        residual = RESIDUALS[self.residual](again, s)
        if self.residual == "l2":
            return residual.square().mean()
        return residual.mean() + (again - s).abs().mean() if self.residual == "ssim" else residual.mean()

    def coded(self, s: Tensor) -> tuple[Tensor, Tensor]:
        z = self.E(s)
        return z, self.G(z)

    def trunks(self) -> dict[str, nn.Module]:
        return {"encoder": self.E}
