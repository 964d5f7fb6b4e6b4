"""Building blocks: encoder, generator, joint critics. All fully convolutional; no norm over the image plane, so that a
bounded neighbourhood decides every output and a tiled image equals the whole one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.utils.parametrizations import spectral_norm

# By the number of axes: 2, of images (N, C, H, W), or 3, of volumes (N, C, D, H, W).
CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def block(conv: nn.Module, width: int, dim: int = 2) -> nn.Sequential:
    """Convolution, batch norm (frozen statistics in eval mode keep locality), leaky ReLU."""
    return nn.Sequential(conv, NORM[dim](width), nn.LeakyReLU(0.2))


@contextmanager
def judged(*nets: nn.Module) -> Iterator[None]:
    """Nets as they are after training, in eval mode: what they do within leaves their batch-norm statistics alone.

    A net that plays a part in another's move would else mix in statistics of what it is not trained on there.
    """
    modes = [net.training for net in nets]
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)


class Spread(nn.Module):
    """(N, side^2 C, h, w) -> (N, C, side h, side w): nn.PixelShuffle, in two turns of axes.

    ONNX Runtime takes a third of the time for these that it takes for DepthToSpace.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        side = self.side
        x = x.reshape(n, c // side, side, h, w).permute(0, 1, 3, 4, 2)  # pixels of a row beside one another
        x = x.reshape(n, c // side**2, side, h, side * w).transpose(2, 3)  # and rows beneath one another
        return x.reshape(n, c // side**2, side * h, side * w)


def finer(width: int, to: int) -> nn.Sequential:
    """(N, width, h, w) -> (N, to, 2h, 2w) by sub-pixel convolution (Shi et al., 2016): each place answers for four.

    As good as a transposed convolution, of which quantised graphs know nothing; repeated pixels were learnt far slower.
    """
    conv = nn.Conv2d(width, 4 * to, 1, bias=False)
    return nn.Sequential(conv, Spread(2), nn.BatchNorm2d(to), nn.LeakyReLU(0.2))


class Residual(nn.Module):
    """x + f(x), two 3x3 convolutions, the first dilated."""

    def __init__(self, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.f = nn.Sequential(
            block(nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False), width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.f(x))


def encoder(channels: int, widths: Sequence[int], code: int) -> nn.Sequential:
    """(N, channels, 8h, 8w) -> (N, code, h, w) with three stride-2 steps; padded, so borders keep their codes."""
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(block(nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False), width))
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, code, 3, padding=1))


def generator(code: int, widths: Sequence[int], channels: int) -> nn.Sequential:
    """(N, code, h, w) -> (N, channels, 8h, 8w) in [-1, 1].

    Nothing is computed beyond stride 4: the last convolution answers for the 4 x 4 pixels of its place, which are then
    laid out.
    """
    _, w2, w3 = widths
    return nn.Sequential(
        block(nn.Conv2d(code, w3, 3, padding=1, bias=False), w3),
        finer(w3, w2),
        block(nn.Conv2d(w2, w2, 3, padding=1, bias=False), w2),
        nn.Conv2d(w2, 16 * channels, 3, padding=1),
        Spread(4),
        nn.Tanh(),
    )


def perceptrons(sizes: Sequence[int], side: int) -> tuple[nn.Sequential, nn.Sequential]:
    """E and G with fully connected layers between so many neurons, for every patch of `side` x `side` pixels of the
    grid by itself; each layer of E has its counterpart in G.

    A patch laid out as channels turns them into 1 x 1 convolutions: the grid starts at the image's origin, and any size
    goes.
    """
    first, *_, last = pairwise(sizes)
    down = [dense(a, b) for a, b in pairwise(sizes[:-1])]
    up = [dense(b, a) for a, b in pairwise(sizes[1:])]
    return (
        nn.Sequential(nn.Sequential(nn.PixelUnshuffle(side), down[0]), *down[1:], nn.Conv2d(*last, 1)),
        nn.Sequential(*reversed(up), nn.Sequential(nn.Conv2d(first[1], first[0], 1), nn.PixelShuffle(side), nn.Tanh())),
    )


def perceptron(*sizes: int) -> list[nn.Module]:
    """Fully connected layers between so many neurons, for every place by itself; the last is linear."""
    *hidden, last = pairwise(sizes)
    return [*(dense(a, b) for a, b in hidden), nn.Conv2d(*last, 1)]


def dense(a: int, b: int) -> nn.Sequential:
    return block(nn.Conv2d(a, b, 1, bias=False), b)


def detail(channels: int, w1: int, w2: int) -> nn.Sequential:
    """(N, channels, 4h, 4w) -> (N, w2, h, w): what a critic makes of an image's detail."""
    return nn.Sequential(
        block(nn.Conv2d(channels, w1, 4, stride=2, padding=1, bias=False), w1),
        block(nn.Conv2d(w1, w2, 4, stride=2, padding=1, bias=False), w2),
        block(nn.Conv2d(w2, w2, 3, padding=1, bias=False), w2),
    )


class FineCritic(nn.Sequential):
    """F(s), (N, C, 4h, 4w) -> (N, 1, h, w): an answer for every fourth pixel by the 34 pixels around it, a plain chain
    for the finest scale, where every channel is dear.
    """

    stride, reach = 4, 20

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            detail(channels, width, width),
            *(block(nn.Conv2d(width, width, 3, padding=1, bias=False), width) for _ in range(2)),
            nn.Conv2d(width, 1, 1),
        )


class FeatureCritic(nn.Module):
    """D(s) with the features that it answers by, in which images can be compared: (N, C, 8h, 8w) -> answers (N, 1, h,
    w) and features (N, width, 2h, 2w).
    """

    stride, reach = 4, 12  # of the features; no feature depends on a pixel farther away

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        w1, w2, w3 = width // 2, width, 3 * width // 2
        self.features = detail(channels, w1, w2)
        self.head = nn.Sequential(
            block(nn.Conv2d(w2, w3, 4, stride=2, padding=1, bias=False), w3), nn.Conv2d(w3, 1, 3, padding=1)
        )

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(s)
        return self.head(features), features


class DenseCritic(nn.Module):
    """D(s, z) that answers at every fourth pixel: (N, C, 8h, 8w) and (N, code, h, w) -> (N, answers, 2h, 2w).

    A contracting path to stride 8, where the code joins the image's features, and one step back to stride 4.
    """

    stride, border = 4, 0
    reach = 68

    def __init__(self, channels: int, width: int, code: int, answers: int = 1) -> None:
        super().__init__()
        w1, w2, w3 = width // 2, width, 3 * width // 2
        self.fine = detail(channels, w1, w2)
        self.down = block(nn.Conv2d(w2, w3, 4, stride=2, padding=1, bias=False), w3)
        self.code = nn.Conv2d(code, w3, 1)
        self.coarse = nn.Sequential(Residual(w3, 1), Residual(w3, 2))
        self.up = finer(w3, w2)
        self.head = nn.Sequential(block(nn.Conv2d(w2, w2, 3, padding=1, bias=False), w2), nn.Conv2d(w2, answers, 1))

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        return self.head[-1](self.seen(s, z))

    def seen(self, s: Tensor, z: Tensor) -> Tensor:
        """What it answers by, (N, width, 2h, 2w)."""
        fine = self.fine(s)
        coarse = self.coarse(self.down(fine) + self.code(z))
        return self.head[:-1](fine + self.up(coarse))


def shrink(x: Tensor, factor: int) -> Tensor:
    """(N, C, factor h, factor w) -> (N, C, h, w) by means of factor x factor pixels."""
    return avg_pool2d(x, factor) if factor > 1 else x


def enlarge(x: Tensor, factor: int) -> Tensor:
    """(N, C, h, w) -> (N, C, factor h, factor w), bilinear."""
    return interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False) if factor > 1 else x


class Critic(nn.Module):
    """D: x -> an answer for every place, (N, answers, h, w), by features (N, f, h, w) that others may look at too."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def normalised(net: Critic) -> Critic:
    """The net, with spectral normalisation of all its convolutions (Miyato et al., 2018)."""
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d):
            spectral_norm(module)
    return net


def beside(field: Tensor, y: Tensor) -> Tensor:
    """(N, c, h, w) with classes y, one-hot (N or 1, K, 1, 1), as further channels: (N, c + K, h, w)."""
    return torch.cat((field, y.expand(len(field), -1, *field.shape[-2:])), 1)


class Leading(nn.Module):
    """The first `channels` of (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.channels]


class ProjectionCritic(Critic):
    """D(x, y) = head(f(x)) + <V y, f(x)> at every place, for (N, channels + K, H, W): x and `beside` it one-hot y.

    cGANs with Projection Discriminator (Miyato and Koyama, 2018).
    """

    def __init__(self, features: nn.Module, head: nn.Module, channels: int, width: int, classes: int) -> None:
        super().__init__(nn.Sequential(Leading(channels), features), head)
        self.channels, self.V = channels, nn.Conv2d(classes, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        f = self.features(x)
        return self.head(f) + (self.V(x[:, self.channels :, :1, :1]) * f).sum(1, keepdim=True)


class AutoencodingCritic(Critic):
    """D: minus the energy, in units of `margin`: how badly x (N, C, H, W) is rebuilt at each place of `cell` pixels."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, margin: float, cell: int) -> None:
        super().__init__(encoder, decoder)
        self.margin, self.cell = margin, cell

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        again = self.head(self.features(x) if features is None else features)
        return -avg_pool2d((again - x).square().mean(1, keepdim=True), self.cell) / self.margin


def perceptron_generator(code: int, hidden: int, channels: int, side: int) -> nn.Sequential:
    """(N, code, h, w) -> (N, channels, side h, side w) in [-1, 1]: each code becomes its patch, by itself."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(code, hidden, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.ReLU()),
        nn.Conv2d(hidden, channels * side**2, 1),
        nn.PixelShuffle(side),
        nn.Tanh(),
    )


def perceptron_critic(channels: int, hidden: int, side: int) -> Critic:
    """(N, channels, side h, side w) -> (N, 1, h, w): each patch by itself has an answer."""
    features = nn.Sequential(
        nn.PixelUnshuffle(side),
        nn.Sequential(nn.Conv2d(channels * side**2, hidden, 1), nn.LeakyReLU(0.2)),
        nn.Sequential(nn.Conv2d(hidden, hidden, 1), nn.LeakyReLU(0.2)),
    )
    return Critic(features, nn.Conv2d(hidden, 1, 1, bias=False))


def transposed(code: int, width: int, channels: int, dim: int = 2) -> nn.Sequential:
    """DCGAN's generator: (N, code, h, w) -> (N, channels, 8h, 8w) in [-1, 1] by transposed convolutions; with dim=3
    that of 3D-GAN: (N, code, d, h, w) -> (N, channels, 8d, 8h, 8w).
    """

    def layer(conv: nn.Module, to: int) -> nn.Sequential:
        return nn.Sequential(conv, NORM[dim](to), nn.ReLU())

    def up(a: int, b: int) -> nn.Sequential:
        return layer(TRANSPOSED[dim](a, b, 4, stride=2, padding=1, bias=False), b)

    return nn.Sequential(
        layer(CONVOLUTION[dim](code, 4 * width, 3, padding=1, bias=False), 4 * width),
        up(4 * width, 2 * width),  # (N, 2 width, 2h, 2w)
        up(2 * width, width),  # (N, width, 4h, 4w)
        TRANSPOSED[dim](width, channels, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def strided(channels: int, width: int, norm: bool = True, answers: int = 1, dim: int = 2) -> Critic:
    """DCGAN's critic: (N, channels, 8h, 8w) -> (N, answers, h, w) by strided convolutions; `norm`: batch norm between;
    `dim`=3: that of 3D-GAN, (N, channels, 8d, 8h, 8w) -> (N, answers, d, h, w).

    Here as in the other critics, the answers have no bias: to some objectives a common offset says nothing.
    """

    def down(a: int, b: int) -> nn.Sequential:
        conv = CONVOLUTION[dim](a, b, 4, stride=2, padding=1, bias=not norm)
        return block(conv, b, dim) if norm else nn.Sequential(conv, nn.LeakyReLU(0.2))

    first = nn.Sequential(CONVOLUTION[dim](channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
    features = nn.Sequential(first, down(width, 2 * width), down(2 * width, 4 * width))
    return Critic(features, CONVOLUTION[dim](4 * width, answers, 3, padding=1, bias=False))
