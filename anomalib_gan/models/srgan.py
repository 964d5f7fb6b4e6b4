"""SRGAN: a generator draws what an image lost when it was made smaller, and a critic tells such images from real ones.

    s = down(x),   x^ = G(s),   down: means of factor x factor pixels
    l = a |x^ - x|^2 + b |phi(x^) - phi(x)|^2 - c log D(x^),   G descends l,   D ascends log D(x) + log(1 - D(x^))
    map = r(G(down(x)), x)

Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network (Ledig et al., 2017), phi being
features of VGG-19. With c = 0 there is no critic, and pixels alone are compared: that is SRResNet, whose images are
means of all that could be there, and therefore smooth. Unlike there, G adds to interpolation, and no batch norm stands
in it (Enhanced Deep Residual Networks for Single Image Super-Resolution, Lim et al., 2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from anomalib_gan.compared import Compared
from anomalib_gan.model import About, Move, Player
from anomalib_gan.nets import FeatureCritic, shrink
from anomalib_gan.nets_resolution import SRResNet, bicubic
from anomalib_gan.objectives import objective_of
from anomalib_gan.perceptual import CACHE, cached, depth, perceptual, weights_file

ALONE = 0.3  # share of the training in which G learns by pixels alone, as the paper begins with a trained SRResNet
UNSAID, CRITIC, VGG = -1, 0, 1


class SRGAN(Compared):
    """G: image -> `factor` times larger, 2 or 4, by `blocks` residual blocks of `width` channels; D: image -> answers.

    `pixel`, `content`, `adversarial`: a, b, c. phi is the convolution `layer` ("5,4" or "2,2" in the paper) of VGG-19
    with the weights in the file `vgg`; "cache" means those in torch's cache. Where none are there, and with "", it is
    the critic's features. `objective`: of the game. `residual`: r, "ssim", "l1" or "l2". `smoothing` of the map: sigma
    in px.
    """

    about = About("what a smaller image does not tell is drawn, and compared", "Ledig et al., 2017", "none")
    chosen: Tensor

    def __init__(
        self,
        channels: int = 1,
        factor: int = 2,
        width: int = 32,
        blocks: int = 4,
        patch: int = 64,
        batch: int = 8,
        pixel: float = 1.0,
        content: float = 0.01,
        adversarial: float = 0.001,
        vgg: str = CACHE,
        layer: str = "5,4",
        objective: str = "non-saturating",
        residual: Literal["ssim", "l1", "l2"] = "ssim",
        smoothing: float = 8.0,
        lr: float = 1e-3,
    ) -> None:
        super().__init__()
        if not (pixel or adversarial):
            raise ValueError("with pixel=0 and adversarial=0 there is nothing to learn: give one of them a weight")
        depth(layer)  # refuses what VGG-19 has not, also where nobody asks for it yet
        self.channels, self.factor, self.patch, self.batch = channels, factor, patch, batch
        self.pixel, self.content, self.adversarial, self.vgg, self.layer = pixel, content, adversarial, vgg, layer
        self.objective, self.lr = objective_of(objective), lr
        self.G = SRResNet(channels, width, blocks, factor)
        self.stride = 4 * factor
        if patch % max(self.stride, 8):
            raise ValueError(f"a patch of {patch} px does not suit the critic: let {max(self.stride, 8)} divide it")
        self.reach = self.G.reach
        self.compare(residual, smoothing, factor * (self.reach + 1))
        if adversarial:
            self.D = FeatureCritic(channels, width)
            self.answers = self._answers
            # What content is compared in, so that a training that is resumed goes on with the same.
            self.register_buffer("chosen", torch.tensor(UNSAID))

    def prepare(self) -> list[str]:
        if not (self.adversarial and self.content) or self.phi() is not None or not self.vgg:
            return []
        return [
            f"there are no weights of VGG-19 ({cached()}): content is compared in the critic's features. Whoever wants "
            "VGG's puts the file there, or names it by --param vgg=FILE: nothing is downloaded"
        ]

    def players(self) -> dict[str, Player]:
        critic = {"critic": Player((self.D,), self.lr, (0.5, 0.99))} if self.adversarial else {}
        return {**critic, "generator": Player((self.G,), self.lr, (0.9, 0.99))}

    def play(self, batches: Iterator[Tensor], progress: float) -> Iterator[Move]:
        x = next(batches)  # (N, C, patch, patch)
        s = shrink(x, self.factor)  # (N, C, patch / factor, patch / factor)
        alone = not self.adversarial or (self.pixel and progress < ALONE)
        if alone:
            yield "generator", {"pixel": self.pixel * (self.upscale(s) - x).square().mean()}
        if not self.adversarial:
            return
        with torch.no_grad():
            fake = self.upscale(s)
        answers, _ = self.D(torch.cat((x, fake)))
        yield "critic", {"adv": self.objective.critic(*answers.chunk(2))}
        if alone:
            return

        again = self.upscale(s)
        answers, features = self.D(torch.cat((x, again)))
        phi = self.phi()
        if phi is not None:
            features = phi(torch.cat((x, again)))
        real, drawn = features.chunk(2)
        yield (
            "generator",
            {
                "pixel": self.pixel * (again - x).square().mean(),
                "content": self.content * (drawn - real).square().mean(),
                "adv": self.adversarial * self.objective.generator(answers.chunk(2)[1]),
            },
        )

    def phi(self) -> nn.Module | None:
        """VGG-19's features, None where content is compared in the critic's; decided once, as training begins."""
        file = weights_file(self.vgg) if self.content else None
        if self.chosen == UNSAID:
            self.chosen.fill_(CRITIC if file is None else VGG)
        if self.chosen == CRITIC:
            return None
        if file is None:
            raise ValueError(
                f"this training began with VGG-19's weights in {cached()}, which are gone: put the file back"
            )
        return perceptual(file, self.layer, str(self.chosen.device))

    def upscale(self, s: Tensor) -> Tensor:
        return bicubic(s, self.factor) + self.G(s)

    def rebuilt(self, s: Tensor) -> Tensor:
        return self.upscale(shrink(s, self.factor))

    def _answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`answers`; SRResNet has nobody to ask."""
        return self.D(x)[0], self.D(self.reconstruct(x))[0]
