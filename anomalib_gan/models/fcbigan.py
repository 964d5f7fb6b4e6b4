"""Fully convolutional BiGAN for anomaly maps.

BiGAN: Adversarial Feature Learning (Donahue et al., 2017); objective: Least Squares GAN (Mao et al., 2017). D
descends (D(s, E(s)) - 1)^2 + D(G(z), z)^2, E and G the opposite targets plus a penalty on G(E(s)) - s. The source's
map:

    A(s) = alpha (D(s, E(s)) - 1)^2 + (1 - alpha) ||G(E(s)) - s||_2,   possibly also -log p(E(s))

At the game's equilibrium D says nothing on real pairs; a critic that also sees spoilt normal pairs as fakes (Negative
Data Augmentation, Sinha et al., 2021), and answers for every place, keeps something to say. So D gives two answers, one
to the game and one to the question whether a place is spoilt, whose log-odds are the map's; in source mode it is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, pad

from anomalib_gan.corruption import corrupt
from anomalib_gan.grain import SIDE, drawn, equaliser, filtered, grain, unshrink
from anomalib_gan.model import Model, Move, Player, refresh
from anomalib_gan.nets import (
    DenseCritic,
    PatchCritic,
    encoder,
    enlarge,
    generator,
    judged,
    patch_encoder,
    patch_generator,
    shrink,
)
from anomalib_gan.objectives import OBJECTIVES
from anomalib_gan.penalties import grey_gap, spectrum_gap
from anomalib_gan.residuals import RESIDUALS, smooth


class FCBiGAN(Model):
    """E: image -> field of codes, G: field of codes -> image, D: (image, codes) -> an answer for every place.

    `shrink`: the working scale is 1/shrink of the image. `padding`: True pads every layer (codes at stride 8, answers
    at stride 4), False pads none, so that a 32 x 32 patch has exactly one code and one answer. `score`: "default"
    standardises log-odds and residual on normal images, at D's stride, before mixing, "source" mixes the formula's
    terms as they are, at every pixel. `alpha`: the critic's share. `likelihood`: weight of -log p(E(s)), p the Gaussian
    of normal codes. `smoothing`: sigma in working pixels. `adversarial`, `reconstruction`, `negatives`: weights of the
    named terms; `texture`: of what G descends so that its samples have the images' power spectrum and grey levels.
    `norm`: the residual, "ssim", "l1" or "l2". `penalised`: who descends the reconstruction penalty, "both" or
    "encoder".
    """

    def __init__(
        self,
        channels: int = 1,
        code: int = 16,
        width: int = 64,
        patch: int = 192,
        batch: int = 8,
        shrink: int = 2,
        padding: bool = True,
        score: Literal["default", "source"] = "default",
        alpha: float = 0.75,
        likelihood: float = 0.0,
        smoothing: float = 4.0,
        adversarial: float = 0.5,
        reconstruction: float = 1.0,
        norm: Literal["ssim", "l1", "l2"] = "ssim",
        penalised: Literal["both", "encoder"] = "both",
        negatives: float = 1.0,
        texture: float = 0.3,
        critic_steps: int = 6,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.channels, self.code, self.patch, self.batch, self.shrink = channels, code, patch, batch, shrink
        self.score, self.alpha, self.likelihood, self.smoothing = score, alpha, likelihood, smoothing
        self.adversarial, self.reconstruction = adversarial, reconstruction
        self.negatives, self.texture = negatives, texture
        self.norm, self.penalised, self.critic_steps, self.lr = norm, penalised, critic_steps, lr
        self.objective = OBJECTIVES["least-squares"]
        self.E: torch.nn.Module
        self.G: torch.nn.Module
        self.D: DenseCritic | PatchCritic
        if padding:
            widths = (width // 2, width, 3 * width // 2)
            self.E, self.G = encoder(channels, widths, code), generator(code, widths, channels)
            self.D = DenseCritic(channels, width, code, answers=1 if score == "source" else 2)
        else:
            self.E, self.G = patch_encoder(channels, width, code), patch_generator(code, width, channels)
            self.D = PatchCritic(channels, width, code)
        self.stride = 8 * shrink
        self.smallest = self.stride if padding else 32 * shrink
        self.cell = self.D.stride if padding and score == "default" else 1  # working pixels to a pixel of the raw map
        reach = self.D.reach + 3 * smoothing + 2 * self.cell
        self.halo = self.stride * -int(-reach * shrink // self.stride)
        self.register_buffer("mean", torch.zeros(3))  # of critic, residual and likelihood on normal images
        self.register_buffer("spread", torch.ones(3))
        self.register_buffer("code_mean", torch.zeros(code))
        self.register_buffer("code_precision", torch.eye(code))
        self.register_buffer("equaliser", pad(torch.ones(1, 1, 1, 1), (SIDE // 2,) * 4))
        self.register_buffer("grain", torch.zeros(1, 1, SIDE, SIDE))
        self.equaliser: Tensor
        self.grain: Tensor
        self.mean: Tensor
        self.spread: Tensor
        self.code_mean: Tensor
        self.code_precision: Tensor

    def players(self) -> dict[str, Player]:
        return {
            "critic": Player((self.D,), self.lr, (0.5, 0.99)),
            "autoencoder": Player((self.E, self.G), self.lr, (0.5, 0.99)),
        }

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        D, E, G, objective = self.D, self.E, self.G, self.objective
        for _ in range(self.critic_steps):
            s = shrink(next(batches), self.shrink)
            clean, spoilt, opacity = self.with_negatives(s)
            with torch.no_grad(), judged(E, G):
                codes = E(torch.cat((clean, spoilt)))
                z = torch.randn_like(codes[: len(clean)])
                fake = G(z)
            answers = D(torch.cat((clean, spoilt, fake)), torch.cat((codes, z)))
            real, negative, generated = answers.split((len(clean), len(spoilt), len(fake)))
            terms = {"adv": objective.critic(real[:, -1:], generated[:, -1:])}
            if self.negatives:
                share = avg_pool2d((opacity > 0.2).to(s.dtype), D.stride)  # of each answer's cell that is spoilt
                odds = torch.cat((real, negative))[:, :1]
                target = torch.cat((torch.ones_like(real[:, :1]), 1 - share))
                terms["negatives"] = self.negatives * binary_cross_entropy_with_logits(odds, target)
            yield "critic", terms

        s = shrink(next(batches), self.shrink)
        code = E(s)
        z = torch.randn_like(code) if self.adversarial or self.texture else code[:0]
        both = torch.cat((code, z))  # in one batch, so that G's statistics are those of codes and prior alike
        again, fake = G(both).split((len(code), len(z)))
        if self.penalised == "encoder":
            fixed = {name: parameter.detach() for name, parameter in G.named_parameters()}
            again = functional_call(G, fixed, (both,))[: len(code)]
        terms = {"rec": self.reconstruction * self.penalty(again, s)}
        if self.adversarial:
            real, generated = D(torch.cat((s, fake)), both)[:, -1:].chunk(2)
            terms["adv_E"] = self.adversarial * objective.flipped(real)
            terms["adv_G"] = self.adversarial * objective.generator(generated)
        if self.texture:
            terms["spectrum"] = self.texture * spectrum_gap(fake, s)
            terms["grey"] = self.texture * grey_gap(fake, s)
        yield "autoencoder", terms

    def with_negatives(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A third of the batch as it is, the rest spoilt, and how opaquely; all of it as it is without negatives."""
        if not self.negatives:
            return s, s[:0], s[:0, :1]
        clean = max(1, len(s) // 3)
        return s[:clean], *corrupt(s[clean:])

    def penalty(self, again: Tensor, s: Tensor) -> Tensor:
        """On G(E(s)) - s. SSIM alone would leave the level of grey nearly free, so L1 stands beside it."""
        residual = RESIDUALS[self.norm](again, s).mean()
        return residual + (again - s).abs().mean() if self.norm == "ssim" else residual

    def components(self, s: Tensor) -> Tensor:
        """Critic, residual and code likelihood of an image at working scale, (N, 3, h / cell, w / cell), smoothed."""
        D, code = self.D, self.E(s)
        answer = D(s, code)[:, :1]
        critic = (answer - 1).square() if self.score == "source" else -answer
        residual = RESIDUALS[self.norm](self.G(code), s)
        off = code - self.code_mean[:, None, None]
        surprise = 0.5 * (off * torch.einsum("cd,ndhw->nchw", self.code_precision, off)).sum(1, keepdim=True)
        critic, surprise = enlarge(critic, D.stride // self.cell), enlarge(surprise, 8 // self.cell)
        if D.border:  # pixels at the image's edge that no answer is centred on
            critic, surprise = (
                pad(field, (D.border // self.cell,) * 4, mode="replicate") for field in (critic, surprise)
            )
        return smooth(torch.cat((critic, shrink(residual, self.cell), surprise), 1), self.smoothing / self.cell)

    def standardised(self, s: Tensor) -> Tensor:
        """`components` with mean 0 and spread 1 on normal images; in source mode as they are."""
        return (self.components(s) - self.mean[:, None, None]) / self.spread[:, None, None]

    def anomaly_map(self, x: Tensor) -> Tensor:
        critic, residual, surprise = self.standardised(shrink(x, self.shrink)).split(1, 1)
        mixed = self.alpha * critic + (1 - self.alpha) * residual + self.likelihood * surprise
        return enlarge(mixed, self.cell * self.shrink)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """What the map of (N, C, H, W) in [-1, 1] is made of: the reconstruction, each standardised component (N, 1, H,
        W), and the field of codes.
        """
        s = shrink(x, self.shrink)
        fields = enlarge(self.standardised(s), self.cell * self.shrink).split(1, 1)
        return {
            "reconstruction": self.reconstruct(x),
            **dict(zip(("critic", "residual", "likelihood"), fields, strict=True)),
            "code": self.E(s),
        }

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        refresh(self, normals)
        shrunk = [shrink(x, self.shrink) for x in normals]
        codes = torch.cat([self.E(s).flatten(2)[0] for s in shrunk], 1).double()
        covariance = torch.cov(codes)
        ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(self.code, device=codes.device)  # few, correlated codes
        self.code_mean.copy_(codes.mean(1))
        self.code_precision.copy_(torch.linalg.inv(covariance + ridge))
        if self.score == "source":
            return  # the formula as it stands: no standardisation
        z = torch.randn(16, self.code, 24, 24).to(self.mean)
        self.equaliser.copy_(equaliser(self.G(z).split(1), shrunk))
        self.grain.copy_(grain(normals, self.shrink))
        values = torch.cat([self.components(s).flatten(2)[0] for s in shrunk], 1)
        self.mean.copy_(values.mean(1))
        self.spread.copy_(values.std(1).clamp_min(1e-6))

    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x)), brought back to the size of x."""
        return enlarge(self.G(self.E(shrink(x, self.shrink))), self.shrink)

    def generate(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] from codes (N, code, h, w), without what lies below the working scale."""
        x = self.G(z)
        return x if self.score == "source" else unshrink(filtered(x, self.equaliser), self.shrink).clamp(-1, 1)

    def sample(self, n: int, height: int, width: int) -> Tensor:
        """Generated images, (n, C, height, width) in [-1, 1]; z ~ N(0, I) is a field, so any size of multiples of
        `stride` goes.

        Their mean power spectrum is that of the normal images: an equaliser fitted by `settle` corrects what G draws,
        and what lies below the working scale, where no network looks, is Gaussian noise of the normal images' grain.
        """
        short = 2 * self.D.border // 8
        z = torch.randn(n, self.code, height // self.stride - short, width // self.stride - short).to(self.mean)
        x = self.generate(z)
        return x if self.score == "source" else (x + drawn(self.grain, x)).clamp(-1, 1)


class SourceFCBiGAN(FCBiGAN):
    """The detector exactly as its source gives it: one code in R^128 per 32 x 32 patch, least squares, L2 penalty and
    residual, the critic's answer squared, no standardisation, no negatives, full scale. The source gives no alpha;
    0.5 is the middle.
    """

    def __init__(
        self,
        channels: int = 1,
        code: int = 128,
        width: int = 32,
        patch: int = 32,
        batch: int = 64,
        alpha: float = 0.5,
        likelihood: float = 0.0,
        smoothing: float = 0.0,
        adversarial: float = 1.0,
        reconstruction: float = 1.0,
        penalised: Literal["both", "encoder"] = "both",
        critic_steps: int = 1,
        lr: float = 2e-4,
    ) -> None:
        super().__init__(
            channels=channels,
            code=code,
            width=width,
            patch=patch,
            batch=batch,
            shrink=1,
            padding=False,
            score="source",
            alpha=alpha,
            likelihood=likelihood,
            smoothing=smoothing,
            adversarial=adversarial,
            reconstruction=reconstruction,
            norm="l2",
            penalised=penalised,
            negatives=0.0,
            critic_steps=critic_steps,
            lr=lr,
        )
