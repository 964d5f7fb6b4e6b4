"""GANomaly: what is not normal comes back from the generator with another code than it went in with.

    z = E(s),   s^ = G(z),   z^ = F(s^)
    L = w_con ||s - s^||_1 + w_enc ||z - z^||_2^2 + w_adv ||f(s) - f(s^)||_2^2,   D ascends log D(s) + log(1 - D(s^))
    map = (1 - alpha) ||s - s^|| + alpha ||z - z^||_1, each in units of its mean on normal images

with f the features of D. GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training (Akcay et al., 2018),
whose score is the code's residual alone (alpha = 1). It has no map; here ||s - s^|| is the structural residual, for a
defect that is smoother than the material has a small L1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from anomalib_gan.model import About, Model, Move, Player, refresh, whole_strides
from anomalib_gan.nets import FeatureCritic, encoder, enlarge, generator, judged, shrink
from anomalib_gan.objectives import OBJECTIVES
from anomalib_gan.residuals import RESIDUALS, absolute, smooth

REACH = 64  # working pixels from s to what it can change in F(G(E(s)))


class GANomaly(Model):
    """E, F: image -> field of codes, `code` numbers for 8 x 8 working pixels; G: codes -> image; D: image -> answers.

    `alpha`: the code's share in the map; `residual`: what the image's is measured by. `reconstruction`, `encoding`,
    `adversarial`: the weights w_con, w_enc, w_adv. `shrink`: the working scale is 1/shrink of the image. `smoothing` of
    the map: sigma in working pixels. `width`: of the layers.
    """

    about = About("an image whose reconstruction has another code is not normal", "Akcay et al., 2018", "none")

    def __init__(
        self,
        channels: int = 1,
        code: int = 16,
        width: int = 32,
        patch: int = 192,
        batch: int = 8,
        shrink: int = 2,
        alpha: float = 0.5,
        reconstruction: float = 50.0,
        encoding: float = 1.0,
        adversarial: float = 1.0,
        residual: Literal["ssim", "l1", "l2"] = "ssim",
        smoothing: float = 4.0,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.batch, self.shrink = channels, patch, batch, shrink
        self.alpha, self.residual, self.smoothing, self.lr = alpha, residual, smoothing, lr
        self.reconstruction, self.encoding, self.adversarial = reconstruction, encoding, adversarial
        self.objective = OBJECTIVES["non-saturating"]
        widths = (width // 2, width, 3 * width // 2)
        self.E, self.G = encoder(channels, widths, code), generator(code, widths, channels)
        self.F, self.D = encoder(channels, widths, code), FeatureCritic(channels, width)
        self.stride = 8 * shrink
        reach = REACH + 3 * smoothing + 2  # SSIM's window reaches less far than F
        self.halo = whole_strides(reach * shrink, self.stride)
        self.register_buffer("scale", torch.ones(2))  # mean of the image's and the code's residual on normal images
        self.scale: Tensor

    def players(self) -> dict[str, Player]:
        return {"critic": Player((self.D,), self.lr), "generator": Player((self.E, self.G, self.F), self.lr)}

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        D, E, G, F = self.D, self.E, self.G, self.F
        s = shrink(next(batches), self.shrink)
        with torch.no_grad(), judged(E, G):
            again = G(E(s))
        real, fake = D(torch.cat((s, again)))[0].chunk(2)
        yield "critic", {"adv": self.objective.critic(real, fake)}

        z = E(s)
        again = G(z)
        seen, rebuilt = D(torch.cat((s, again)))[1].chunk(2)
        yield (
            "generator",
            {
                "con": self.reconstruction * (s - again).abs().mean(),
                "enc": self.encoding * (z - F(again)).square().mean(),
                "adv": self.adversarial * (seen - rebuilt).square().mean(),
            },
        )

    def anomaly_map(self, x: Tensor) -> Tensor:
        parts = self.parts(x)
        return (1 - self.alpha) * parts["residual"] + self.alpha * parts["code_residual"]

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """The field of codes, the reconstruction of (N, C, H, W) at its size, and both residuals."""
        s = shrink(x, self.shrink)
        z = self.E(s)  # (N, code, h, w)
        again = self.G(z)  # (N, C, 8 h, 8 w)
        residual, code = RESIDUALS[self.residual](again, s), enlarge(absolute(z, self.F(again)), 8)
        both = smooth(torch.cat((residual, code), 1) / self.scale[:, None, None], self.smoothing)
        residual, code = enlarge(both, self.shrink).split(1, 1)
        return {"reconstruction": enlarge(again, self.shrink), "code": z, "residual": residual, "code_residual": code}

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.parts(x)["reconstruction"]

    def trunks(self) -> dict[str, nn.Module]:
        return {"encoder": self.E, "critic": self.D.features}

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        refresh(self, normals)
        self.scale.fill_(1)
        found = [self.parts(x) for x in normals]
        means = [torch.stack([one[name].mean() for one in found]).mean() for name in ("residual", "code_residual")]
        self.scale.copy_(torch.stack(means).clamp_min(1e-6))
