"""Denoising diffusion: a network learns to tell noise from image at every degree of noise, and so to draw.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   eps ~ N(0, I),   t uniform in 1 .. T
    min over U of  E ||eps - U(x_t, t)||^2,   x^ = (x_t - sqrt(1 - abar_t) U(x_t, t)) / sqrt(abar_t)
    map = ||s^ - s|| per pixel,   s^: from s_t with fixed t and fixed eps back to 0 by the steps of DDIM

Denoising Diffusion Probabilistic Models (Ho et al., 2020), Algorithms 1 and 2; the schedule and the way back stand in
`anomalib_gan/diffusion.py`. As a detector by partial noising: AnoDDPM (Wyatt et al., 2022). The other targets: U tells
x_0, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0 (Progressive Distillation, Salimans and Ho, 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from anomalib_gan.compared import Compared
from anomalib_gan.diffusion import backwards, cosine, embedding, spaced
from anomalib_gan.grain import unshrink
from anomalib_gan.model import About, Move, Player, crops, refresh
from anomalib_gan.nets import shrink
from anomalib_gan.nets_diffusion import Denoiser

SIDE = 96  # working px, of the patches that are trained on: U sees 33 to all sides
TOLD = 32  # numbers that tell U the degree of noise
DEGREES = 32  # of noise at which the error is measured that a sampler makes up for

# What U tells, p x_0 + q eps, for a = sqrt(abar_t) and b = sqrt(1 - abar_t).
TARGETS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "noise": lambda a, b: (0.0, 1.0),
    "image": lambda a, b: (1.0, 0.0),
    "velocity": lambda a, b: (-b, a),
}


class DDPM(Compared):
    """U: (noisy image, t) -> its noise, in T = `timesteps` degrees.

    `noise`: the t that the map adds, as a share of T: more hides larger defects, and more of the material. `steps`: of
    the map's way back; each of them sees `Denoiser.reach` farther, so they are few. `target`: what U tells, "noise",
    "image" or "velocity". `period`: working pixels after which the map's noise repeats, on a grid that begins at the
    image's origin. `residual`: what the map is measured by, "ssim", "l1" or "l2". `smoothing` of the map: sigma
    in working pixels. `shrink`: the working scale is 1/shrink of the image. `width`: of the layers.
    """

    about = About("a network that takes noise away, and from pure noise draws", "Ho et al., 2020", "bound")
    side_at_scale = SIDE
    errors: Tensor
    told: Tensor
    eps: Tensor

    def __init__(
        self,
        channels: int = 1,
        width: int = 32,
        patch: int = 2 * SIDE,
        batch: int = 8,
        shrink: int = 2,
        timesteps: int = 1000,
        target: Literal["noise", "image", "velocity"] = "noise",
        noise: float = 0.4,
        steps: int = 3,
        period: int = 32,
        residual: Literal["ssim", "l1", "l2"] = "l1",
        smoothing: float = 4.0,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        if period < 1 or period % Denoiser.stride:
            raise ValueError(f"noise cannot repeat every {period} px: give a multiple of {Denoiser.stride}")
        if not 0 < noise <= 1:
            raise ValueError(f"a share of {noise} of the noise cannot be added: give more than 0 and at most 1")
        self.channels, self.patch, self.batch, self.shrink = channels, patch, batch, shrink
        self.timesteps, self.target, self.period = timesteps, target, period
        self.lr = lr
        self.abar = cosine(timesteps)
        self.times = spaced(max(1, round(noise * timesteps)), steps)  # from the map's t back to 0
        self.U = Denoiser(channels, width, TOLD)
        self.stride = period * shrink
        self.compare(residual, smoothing, steps * self.U.reach)
        eps = torch.randn(1, channels * period**2, 1, 1, generator=torch.Generator().manual_seed(0))
        self.register_buffer("eps", eps)  # of a square of the grid, laid out as channels
        self.register_buffer("told", embedding(timesteps, TOLD), persistent=False)
        self.register_buffer("errors", torch.zeros(DEGREES + 1))  # mean square of x^ - x_0 by the degree of noise

    def players(self) -> dict[str, Player]:
        return {"denoiser": Player((self.U,), self.lr, (0.9, 0.99))}

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        s = shrink(next(batches), self.shrink)
        # Evenly spread, so that the batch shows all degrees of noise (Kingma et al., 2021).
        share = (torch.rand((), device=s.device) + torch.arange(len(s), device=s.device)) / len(s)
        t = (share * self.timesteps).long().clamp(max=self.timesteps - 1) + 1
        abar = torch.tensor(self.abar, device=s.device)[t].view(-1, 1, 1, 1)
        a, b, eps = abar.sqrt(), (1 - abar).sqrt(), torch.randn_like(s)
        p, q = TARGETS[self.target](a, b)
        told = self.U(a * s + b * eps, self.told[t])
        yield "denoiser", {self.target: (told - (p * s + q * eps)).square().mean()}

    def denoised(self, x: Tensor, t: int) -> Tensor:
        """x^ of x_t (N, C, h, w), within the range of images."""
        a, b = math.sqrt(self.abar[t]), math.sqrt(1 - self.abar[t])
        p, q = TARGETS[self.target](a, b)
        return ((q * x - b * self.U(x, self.told[t : t + 1])) / (q * a - p * b)).clamp(-1, 1)

    def rebuilt(self, s: Tensor) -> Tensor:
        """What an image at the working scale, (N, C, h, w), is after noise came and went."""
        abar = self.abar[self.times[0]]
        grid = pixel_unshuffle(s, self.period)  # (N, C period^2, h / period, w / period)
        noisy = pixel_shuffle(math.sqrt(abar) * grid + math.sqrt(1 - abar) * self.eps, self.period)
        return backwards(self.denoised, noisy, self.abar, self.times)

    def sample(
        self, n: int, height: int, width: int, *, steps: int = 50, eta: float = 0.0, analytic: bool = False
    ) -> Tensor:
        """Generated images, (n, C, height, width) in [-1, 1], of any size.

        In `steps` steps from pure noise, by DDIM; eta = 1 and steps = T is the ancestral sampling of the paper.
        `analytic`: the variance that a step loses because x_0 is not known is added again, as `settle` measured it.
        """
        rows, columns = (-(-size // (self.U.stride * self.shrink)) * self.U.stride for size in (height, width))
        x = torch.randn(n, self.channels, rows, columns, device=self.eps.device)
        error = self.error if analytic else lambda t: 0.0
        x = backwards(self.denoised, x, self.abar, spaced(self.timesteps, steps), eta=eta, error=error)
        return unshrink(x, self.shrink).clamp(-1, 1)[..., :height, :width]

    def error(self, t: int) -> float:
        """Mean square of x^ - x_0 for each number, at t, between the degrees that `settle` measured."""
        place = t / self.timesteps * DEGREES
        below = min(int(place), DEGREES - 1)
        return float(torch.lerp(self.errors[below], self.errors[below + 1], place - below))

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        refresh(self, normals)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            s = shrink(next(crops(normals, self.patch, self.batch)), self.shrink)
            for degree in range(1, DEGREES + 1):
                t = max(1, round(degree / DEGREES * self.timesteps))
                noisy = math.sqrt(self.abar[t]) * s + math.sqrt(1 - self.abar[t]) * torch.randn_like(s)
                self.errors[degree] = (self.denoised(noisy, t) - s).square().mean()
