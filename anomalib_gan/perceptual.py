"""VGG-19's convolutional features, in which images are compared by what a network trained on photographs sees.

Very Deep Convolutional Networks for Large-Scale Image Recognition (Simonyan and Zisserman, 2015), as a loss: Ledig et
al., 2017. The weights are those of torchvision; they are looked for on this machine and never downloaded.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VGG19_Weights, vgg19  # type: ignore[import-untyped]

CACHE = "cache"
BLOCKS = (2, 2, 4, 4, 4)  # convolutions before each pooling
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, in [0, 1]
RESCALED = 1 / 12.75  # which makes squares of the features about as large as those of pixels (Ledig et al., 2017)


def cached() -> Path:
    """Where torchvision puts the weights when somebody downloads them."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(VGG19_Weights.IMAGENET1K_V1.url).name


def weights_file(vgg: str) -> Path | None:
    """The file that is meant by a path, by "cache" (None where it is not there) or by "", which is None.

    ValueError: there is no file at the path.
    """
    if vgg == CACHE:
        return cached() if cached().is_file() else None
    if vgg and not Path(vgg).is_file():
        raise ValueError(
            f"vgg={vgg} is no file: give the weights of torchvision's vgg19, such as {cached().name}, or vgg={CACHE} "
            'for those in torch\'s cache, or vgg="" to do without'
        )
    return Path(vgg) if vgg else None


def depth(layer: str) -> int:
    """How many of the layers of torchvision's `features` end with the convolution phi_i,j, written "i,j".

    >>> depth("1,1"), depth("2,2"), depth("5,4")
    (1, 8, 35)
    """
    places = {
        f"{block},{conv}": 2 * (sum(BLOCKS[: block - 1]) + conv) + block - 2
        for block, count in enumerate(BLOCKS, 1)
        for conv in range(1, count + 1)
    }
    if layer not in places:
        raise ValueError(f"VGG-19 has no convolution {layer!r}: choose one of {' '.join(places)}")
    return places[layer]


class Perceptual(nn.Module):
    """phi: images (N, 1 or 3, H, W) in [-1, 1] -> (N, f, h, w), what a convolution of VGG-19 answers, frozen.

    Before the activation, which leaves most of the deep features 0 (Wang et al., 2018; Ledig et al. take them after
    it). Grey goes into all three colours.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("spread", torch.tensor(SPREAD)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        colours = (x.expand(-1, 3, -1, -1) + 1) / 2
        return self.net((colours - self.mean) / self.spread) * RESCALED


@lru_cache(2)  # one for all models, none of which owns it: it is in no checkpoint, and no player can move it
def perceptual(file: Path, layer: str = "5,4", device: str = "cpu") -> Perceptual:
    """phi with the weights in `file`, a state dict of torchvision's vgg19. ValueError: it is none."""
    with torch.device("meta"):  # the weights of the file take the place of random ones that need not be drawn
        net = vgg19(weights=None).features[: depth(layer)]
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    mend = f"give the file of torchvision's vgg19, {cached().name}"
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} cannot be read as weights ({reason}): {mend}") from error
    for name, shape in wanted.items():
        tensor = found.get(f"features.{name}") if isinstance(found, dict) else None
        if not isinstance(tensor, Tensor) or tensor.shape != shape:
            has = f"of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else "missing"
            raise ValueError(f"{file}: features.{name} is {has}, and {tuple(shape)} is its shape in VGG-19: {mend}")
    net.load_state_dict({name: found[f"features.{name}"].float() for name in wanted}, assign=True)
    return Perceptual(net).eval().requires_grad_(False).to(device)
