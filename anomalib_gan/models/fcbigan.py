"""Fully convolutional BiGAN for anomaly maps.

BiGAN: Adversarial Feature Learning (Donahue et al., 2017); objective: Least Squares GAN (Mao et al., 2017). D
descends (D(s, E(s)) - 1)^2 + D(G(z), z)^2, E and G the opposite targets plus a penalty on G(E(s)) - s. The source's
map:

    A(s) = alpha (D(s, E(s)) - 1)^2 + (1 - alpha) ||G(E(s)) - s||_2,   possibly also -log p(E(s))

At the game's equilibrium D says nothing on real pairs; a critic that also sees spoilt normal pairs as fakes (Negative
Data Augmentation, Sinha et al., 2021), and answers for every place, keeps something to say. So D gives two answers, one
to the game and one to the question whether a place is spoilt, whose log-odds are the map's; without negatives,
as in source mode, it is one. What is too fine for the scale that the game is played at, a second critic F answers for,
of the image at twice that scale; it only learns from spoilt images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad

from anomalib_gan.contrast import AROUND, evened
from anomalib_gan.drawing import Drawing
from anomalib_gan.mixing import Mixing
from anomalib_gan.model import About, Defective, Move, Player, normals_of, refresh, whole_strides
from anomalib_gan.negatives import closer, told_apart, with_negatives
from anomalib_gan.nets import DenseCritic, FineCritic, encoder, enlarge, generator, judged, shrink
from anomalib_gan.nets_patch import PatchCritic
from anomalib_gan.objectives import OBJECTIVES
from anomalib_gan.penalties import grey_gap, spectrum_gap
from anomalib_gan.residuals import RESIDUALS, by_cells, mean_odds
from anomalib_gan.scale import SIDE_OF_PATCH
from anomalib_gan.trunks import OfPairs

Norm = Literal["ssim", "l1", "l2"]


class FCBiGAN(Mixing, Drawing):
    """E: image -> field of codes, G: field of codes -> image, D: (image, codes) -> an answer for every place;
    F: image at twice the working scale -> the same for fine detail, where there are such a scale and negatives.

    `shrink`: the working scale is 1/shrink of the image. `alpha`: the critic's share in the map, None: found by
    `settle`. `likelihood`: weight of -log p(E(s)), p the Gaussian of normal codes. `smoothing`: sigma in working
    pixels, None: found by `settle`. `adversarial`, `negatives`: weights of the named terms, that of the reconstruction
    penalty being 1. `norm`: of that penalty and of the residual. `turned`: all but F looks twice, the second
    time at the image turned upside down, for materials that look the same either way up.
    """

    about = About(
        "the detector: a critic of image and code that also saw spoilt images, and a structural residual",
        "Donahue et al., 2017",
        "implicit",
    )
    side_at_scale = SIDE_OF_PATCH
    evens = True  # D sees the image with its local contrast made even: light and exposure are no defects
    batch = 8
    critic_steps = 6  # moves of D to one of E and G; with negatives only the first of them plays the game
    lr = 2e-3
    betas = (0.6, 0.99)  # of D
    turn = 0.04  # of D's weight matrices
    texture = 0.3  # weight of what G descends so that its samples have the images' power spectrum and grey levels
    penalised: Literal["both", "encoder"] = "both"  # who descends the reconstruction penalty
    reconstruction = 1.0  # weight of the penalty

    def __init__(
        self,
        channels: int = 1,
        code: int = 16,
        width: int = 32,
        patch: int = 192,
        shrink: int = 2,
        alpha: float | None = None,
        likelihood: float = 0.0,
        smoothing: float | None = None,
        adversarial: float = 0.5,
        norm: Norm = "ssim",
        negatives: float = 1.0,
        turned: bool = True,
    ) -> None:
        super().__init__()
        self.channels, self.code, self.patch, self.shrink = channels, code, patch, shrink
        self.alpha, self.likelihood, self.smoothing = alpha, likelihood, smoothing
        self.adversarial, self.negatives, self.defects = adversarial, negatives, negatives > 0
        self.norm, self.turned = norm, turned
        self.objective = OBJECTIVES["least-squares"]
        self.E, self.G, self.D = self.nets(width)
        self.F = FineCritic(channels, width // 2) if negatives and shrink > 1 else None
        self.stride = 8 * shrink
        self.smallest = self.stride
        widest = self.register_mixing(3 if self.F is None else 4)
        reach = self.D.reach + AROUND * self.evens + 3 * widest + 2 * self.cell
        self.halo = whole_strides(reach * shrink, self.stride)
        self.border = self.D.border
        self.register_drawing()
        self.register_buffer("code_precision", torch.eye(code))
        self.code_precision: Tensor

    def nets(self, width: int) -> tuple[nn.Module, nn.Module, DenseCritic | PatchCritic]:
        """E, G and D: padded, codes at stride 8, answers at stride 4."""
        widths = (width // 2, width, 3 * width // 2)
        encoding, drawing = encoder(self.channels, widths, self.code), generator(self.code, widths, self.channels)
        return encoding, drawing, DenseCritic(self.channels, width, self.code, answers=2 if self.negatives else 1)

    @classmethod
    def suggest(cls, normals: Sequence[Tensor], flips: bool = True) -> dict[str, Any]:
        found = super().suggest(normals, flips)
        return found if flips else {**found, "turned": False}

    def players(self) -> dict[str, Player]:
        fine = {} if self.F is None else {"fine critic": Player((self.F,), self.lr, self.betas, turn=self.turn)}
        return {
            "critic": Player((self.D,), self.lr, self.betas, turn=self.turn),
            **fine,
            "autoencoder": Player((self.E, self.G), self.lr, (0.5, 0.99)),
        }

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        E, G, objective = self.E, self.G, self.objective
        drawn = [next(batches) for _ in range(self.critic_steps)]
        fine = [] if self.F is None else self.shown([closer(batch, self.stride) for batch in drawn], self.shrink // 2)
        for turn, (clean, spoilt, opacity) in enumerate(self.shown(drawn, self.shrink)):
            plays = turn == 0 or not self.negatives  # the game's moves are one to one; the others learn the negatives
            with torch.no_grad(), judged(E, G):
                codes = E(torch.cat((clean, spoilt)))
                z = torch.randn_like(codes if plays else codes[:0])
                fake = G(z)
            answers = self.judge(torch.cat((clean, spoilt, fake)), torch.cat((codes, z)))
            real, negative, generated = answers.split((len(clean), len(spoilt), len(fake)))
            terms = {"adv": objective.critic(real[:, -1:], generated[:, -1:])} if plays else {}
            if self.negatives:
                terms["negatives"] = self.negatives * told_apart(real[:, :1], negative[:, :1], opacity)
            yield "critic", terms
            if self.F is not None:
                clean, spoilt, opacity = fine[turn]
                found = self.F(self.look(torch.cat((clean, spoilt))))
                apart = told_apart(found[: len(clean)], found[len(clean) :], opacity)
                yield "fine critic", {"negatives": self.negatives * apart}

        s = shrink(normals_of(next(batches)), self.shrink)
        code = E(s)
        z = torch.randn_like(code) if self.adversarial or self.texture else code[:0]
        both = torch.cat((code, z))  # in one batch, so that G's statistics are those of codes and prior alike
        again, fake = G(both).split((len(code), len(z)))
        if self.penalised == "encoder":
            fixed = {name: parameter.detach() for name, parameter in G.named_parameters()}
            again = functional_call(G, fixed, (both,))[: len(code)]
        terms = {"rec": self.reconstruction * self.penalty(again, s)}
        if self.adversarial:
            real, generated = self.judge(torch.cat((s, fake)), both)[:, -1:].chunk(2)
            terms["adv_E"] = self.adversarial * objective.flipped(real)
            terms["adv_G"] = self.adversarial * objective.generator(generated)
        if self.texture:
            terms["spectrum"] = self.texture * spectrum_gap(fake, s)
            terms["grey"] = self.texture * grey_gap(fake, s)
        yield "autoencoder", terms

    def look(self, s: Tensor) -> Tensor:
        """What D sees of an image at the working scale."""
        return evened(s) if self.evens else s

    def judge(self, s: Tensor, z: Tensor) -> Tensor:
        """D's answers on pairs of images at the working scale and codes."""
        return self.D(self.look(s), z)

    def shown(self, batches: Sequence[Tensor | Defective], factor: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What a critic of the scale 1/factor is shown of each: clean images, spoilt ones, and how opaquely; see
        `with_negatives`, without which none are spoilt.
        """
        if self.negatives:
            return with_negatives(batches, factor)
        return [(s, s[:0], s[:0, :1]) for s in (shrink(normals_of(batch), factor) for batch in batches)]

    def penalty(self, again: Tensor, s: Tensor) -> Tensor:
        """On G(E(s)) - s. SSIM alone would leave the level of grey nearly free, so L1 stands beside it."""
        residual = RESIDUALS[self.norm](again, s).mean()
        return residual + (again - s).abs().mean() if self.norm == "ssim" else residual

    def components(self, x: Tensor) -> Tensor:
        """Critic, residual and code likelihood of (N, C, H, W) in [-1, 1], and the fine critic where there is one: a
        channel each of (N, 3 or 4, h / cell, w / cell), h and w the sides at the working scale.

        A second look at it upside down, as training shows it as well, averages away some of what is chance in them. F,
        for which it would be dearest, gains nothing by it.
        """
        s = shrink(x, self.shrink)
        fine = [] if self.F is None else [mean_odds(-self.F(self.look(shrink(x, self.shrink // 2))), 2)]
        views = [s, self.look(s)]
        if not self.turned:
            return torch.cat((self.seen(*views), *fine), 1)
        both = (torch.stack((view, view.flip((-2, -1)))).flatten(0, 1) for view in views)
        found, again = self.seen(*both).unflatten(0, (2, -1))
        return torch.cat(((found + again.flip((-2, -1))) / 2, *fine), 1)

    def seen(self, s: Tensor, looked: Tensor) -> Tensor:
        """Critic, residual and code likelihood at one look: `looked` is what D sees of s."""
        D, code = self.D, self.E(s)
        answer = D(looked, code)[:, :1]
        critic = (answer - 1).square() if self.score == "source" else -answer
        residual = by_cells(self.norm, self.G(code), s, self.cell)
        off = code - self.code_mean[:, None, None]
        surprise = 0.5 * (off * torch.einsum("cd,ndhw->nchw", self.code_precision, off)).sum(1, keepdim=True)
        critic, surprise = enlarge(critic, D.stride // self.cell), enlarge(surprise, 8 // self.cell)
        if D.border:  # pixels at the image's edge that no answer is centred on
            critic, surprise = (
                pad(field, (D.border // self.cell,) * 4, mode="replicate") for field in (critic, surprise)
            )
        return torch.cat((critic, residual, surprise), 1)

    def anomaly_map(self, x: Tensor) -> Tensor:
        found = self.standardised(x)
        return enlarge((self.weights[:, None, None] * found).sum(1, keepdim=True), self.cell * self.shrink)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """What the map of (N, C, H, W) in [-1, 1] is made of: the reconstruction, each standardised component (N, 1, H,
        W), and the field of codes.
        """
        fields = enlarge(self.standardised(x), self.cell * self.shrink).split(1, 1)
        return {
            "reconstruction": self.reconstruct(x),
            **dict(zip(("critic", "residual", "likelihood"), fields, strict=True)),
            "code": self.E(shrink(x, self.shrink)),
        }

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """D's answers in the game on pairs (s, E(s)) and (G(z), z), raw: see `objective`."""
        s = shrink(x, self.shrink)
        code = self.E(s)
        z = torch.randn_like(code)
        return self.judge(s, code)[:, -1:], self.judge(self.G(z), z)[:, -1:]

    def trunks(self) -> dict[str, nn.Module]:
        return {"encoder": self.E, "critic": OfPairs(self.E, self.D, self.look)}

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        refresh(self, normals)
        shrunk = [shrink(x, self.shrink) for x in normals]
        codes = torch.cat([self.E(s).flatten(2)[0] for s in shrunk], 1).double()
        covariance = torch.cov(codes).reshape(self.code, self.code)
        ridge = 1e-3 * covariance.diagonal().mean() + 1e-12  # codes may be few, correlated or all the same
        self.code_mean.copy_(codes.mean(1))
        self.code_precision.copy_(torch.linalg.inv(covariance + ridge * torch.eye(self.code, device=codes.device)))
        if self.score == "source":
            return  # the formula as it stands: no standardisation
        self.fit_generator(normals, shrunk)
        fields = [self.components(x) for x in normals]
        self.standardise(fields)
        if self.smoothing is None or self.alpha is None:
            self.tune(normals, fields)
        self.fit_samples(normals)

    def reconstruct(self, x: Tensor) -> Tensor:
        """G(E(x)), brought back to the size of x."""
        return enlarge(self.G(self.E(shrink(x, self.shrink))), self.shrink)
