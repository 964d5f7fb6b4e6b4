"""How a detector draws samples that are like its normal images: what training leaves undone, fitted after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from anomalib_gan.grain import REACH, SIDE, equaliser, field, filtered, grain, unevenness, unshrink, with_grain
from anomalib_gan.model import Model
from anomalib_gan.nets import shrink

MARGIN = 2  # codes around a sample that are drawn and cut off


class Drawing(Model):
    """A model with E, G, and codes at every `stride` pixels of an image, that draws from the codes of normal images.

    `natural`: False: codes are of N(0, I), as the game has them, and pictures are as G gives them.
    """

    natural = True
    border = 0  # working px at the image's edge that an unpadded G does not draw
    code: int
    shrink: int
    E: nn.Module
    G: nn.Module

    def register_drawing(self) -> None:
        """The buffers of what is fitted; untrained, they change nothing."""
        self.register_buffer("code_mean", torch.zeros(self.code))
        self.register_buffer("equaliser", pad(torch.ones(1, 1, 1, 1), (SIDE // 2,) * 4))
        self.register_buffer("grain", torch.zeros(1, 1, SIDE, SIDE))
        identity = pad(torch.eye(self.code)[..., None, None], (REACH,) * 4)
        self.register_buffer("field", identity if self.natural else None)
        self.register_buffer("uneven", torch.zeros(3) if self.natural else None)
        self.register_buffer("finish", self.equaliser.clone() if self.natural else None)
        self.code_mean: Tensor
        self.equaliser: Tensor
        self.grain: Tensor
        self.field: Tensor
        self.uneven: Tensor
        self.finish: Tensor

    def fit_generator(self, normals: Sequence[Tensor], shrunk: Sequence[Tensor]) -> None:
        """What G's pictures lack of normal images (1, C, H, W), given at the working scale as well: power, and what
        lies below that scale.
        """
        z = torch.randn(16, self.code, 24, 24).to(self.code_mean)
        self.equaliser.copy_(equaliser(self.G(z).split(1), shrunk))
        self.grain.copy_(grain(normals, self.shrink))

    def fit_samples(self, normals: Sequence[Tensor]) -> None:
        """Makes samples like normal images. Comes last, so that what it draws does not reach into the map."""
        self.field.copy_(field([self.E(shrink(x, self.shrink)) for x in normals]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.uneven.copy_(unevenness(normals, self.shrink, self.grain))
            self.finish.copy_(equaliser(self.unfinished(4, 512, 512).split(1), normals, clipped=True))

    @property
    def middle(self) -> Tensor:
        """The mean of `codes`, (code,)."""
        return self.code_mean if self.natural else torch.zeros_like(self.code_mean)

    def codes(self, n: int, rows: int, columns: int) -> Tensor:
        """Random codes, (n, code, rows, columns): `coloured` where they are `natural`, else of N(0, I)."""
        more = 2 * REACH if self.natural else 0
        white = torch.randn(n, self.code, rows + more, columns + more).to(self.code_mean)
        return self.coloured(white) if self.natural else white

    def coloured(self, white: Tensor) -> Tensor:
        """Codes that vary and go together as those of normal images do, (N, code, h - 2 REACH, w - 2 REACH), from white
        noise (N, code, h, w). Only where codes are `natural`.
        """
        return conv2d(white, self.field) + self.code_mean[:, None, None]

    def generate(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] from codes (N, code, h, w), without what lies below the working scale."""
        x: Tensor = self.G(z)
        return unshrink(filtered(x, self.equaliser), self.shrink).clamp(-1, 1) if self.natural else x

    def sample(self, n: int, height: int, width: int) -> Tensor:
        """Generated images, (n, C, height, width) in [-1, 1], of any size of multiples of `stride`, as codes are a
        field: a Gaussian field with the covariances of normal images' codes or, where these are not `natural`, z ~ N(0,
        I).

        What lies below the working scale, where no network looks, is noise, as strong at each place as it is in normal
        images beside what is fine there. A filter gives samples the mean power spectrum of normal images. `settle` fits
        all this.
        """
        if self.natural:
            return filtered(self.unfinished(n, height, width), self.finish).clamp(-1, 1)
        short = 2 * self.border // 8  # codes that an unpadded G needs fewer of
        z = self.codes(n, *(size // self.stride - short for size in (height, width)))
        return self.generate(z)[..., :height, :width]

    def unfinished(self, n: int, height: int, width: int) -> Tensor:
        """Samples before the last filter; not clipped."""
        x = self.generate(self.codes(n, *(size // self.stride + 2 * MARGIN for size in (height, width))))
        x = with_grain(x, self.shrink, self.grain, self.uneven)
        begin = MARGIN * self.stride  # what lies along a padded G's edge is not drawn like the rest
        return x[..., begin : begin + height, begin : begin + width]
