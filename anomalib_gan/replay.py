"""Images that a generator drew earlier, kept so that its critic does not forget what it drew then."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pool(nn.Module):
    """The last `size` generated images, (channels, side, side) each, that were not given back yet.

    Learning from Simulated and Unsupervised Images through Adversarial Training (Shrivastava et al., 2017), section
    2.3, as CycleGAN has it. All of it lies in buffers, so a training that is resumed goes on with the same images.
    """

    images: Tensor
    held: Tensor

    def __init__(self, size: int, channels: int, side: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(size, channels, side, side))
        self.register_buffer("held", torch.zeros((), dtype=torch.long))  # how many of them are images as yet

    @torch.no_grad()
    def exchange(self, fresh: Tensor) -> Tensor:
        """(N, channels, side, side) -> as many: each of them itself or, every second time, one that was given earlier
        and whose place it takes. Until the pool is full all come back as they are, and stay in it as well.
        """
        given, size = fresh.detach().clone(), len(self.images)
        for i, image in enumerate(fresh.detach()):
            held = int(self.held)
            if held < size:
                self.images[held] = image
                self.held += 1
            elif size and torch.rand(()) < 0.5:
                place = int(torch.randint(size, ()))
                given[i] = self.images[place]
                self.images[place] = image
        return given

    def empty(self) -> None:
        self.images.zero_()
        self.held.zero_()
