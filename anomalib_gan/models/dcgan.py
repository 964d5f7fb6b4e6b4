"""Deep convolutional GAN: the game of `gan`, played by nets that train stably.

Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks (Radford et al., 2016). Its
rules: strided convolutions in D and transposed ones in G instead of pooling; batch norm, but not where D begins and G
ends; no fully connected layer; ReLU in G with tanh at its end, leaky ReLU in D. Fully convolutional throughout here: z
is a field of codes and D answers for every place, so one G draws images of any size.
"""

from __future__ import annotations

from torch import nn

from anomalib_gan.model import About
from anomalib_gan.models.gan import GAN
from anomalib_gan.nets import Critic, strided, transposed


class DCGAN(GAN):
    """With `objective` any other of the table, for example "least-squares": see `GAN`."""

    about = About("the same game by convolutions that train stably", "Radford et al., 2016", "implicit")
    cell = 8

    def nets(self, width: int) -> tuple[nn.Module, Critic]:
        return transposed(self.code, width, self.channels), strided(self.channels, width)
