"""How the detector's map is put together: its components, smoothed, measured by normal images, and mixed.

What is left open of it, smoothing and mixing, is found after training, without any real defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from anomalib_gan.edges import RINGS, along, depths
from anomalib_gan.model import Model
from anomalib_gan.proxy import examples_of, generous
from anomalib_gan.residuals import blur, gaussian, odds

SIGMAS = (2.0, 3.0, 4.0, 6.0)  # working px, among which the smoothing is found
SHARE = 0.25  # largest share of the residual in the map
Score = Literal["default", "source"]


class Mixing(Model):
    """A model whose map is a mixture of `components`: critic, residual, likelihood and, of some, a second critic.

    `alpha`: the critic's share, `smoothing`: sigma in working pixels, None: found by `tune`, and then in `found`.
    `likelihood`: the weight of that component.
    """

    score: Score = "default"  # "source": the formula's terms at every pixel, as they are
    cell = 4  # working pixels to a pixel of the raw map
    limit = 1.0  # of the standardised residual
    alpha: float | None
    likelihood: float
    smoothing: float | None
    shrink: int

    def register_mixing(self, terms: int) -> float:
        """The buffers, for so many components. Gives the widest smoothing that there can be, in working pixels."""
        self.found: dict[str, float] = {}
        widest = max(SIGMAS) if self.smoothing is None else self.smoothing
        side = 2 * round(3 * widest / self.cell) + 1
        self.register_buffer("kernel", pad(torch.ones(1), (side // 2,) * 2))
        self.register_buffer("weights", torch.tensor([1.0, 0.0, 0.0]))  # of critic, residual and likelihood in the map
        self.register_buffer("mean", torch.zeros(terms, RINGS + 1))  # of each on normal images, from the edge inwards
        self.register_buffer("spread", torch.ones(terms, RINGS + 1))
        self.kernel: Tensor
        self.weights: Tensor
        self.mean: Tensor
        self.spread: Tensor
        if self.smoothing is not None:
            self.smoothed(self.smoothing)
        if self.alpha is not None:
            self.mixed(self.alpha)
        return widest

    def components(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, terms, h / cell, w / cell), h and w the sides at the working scale."""
        raise NotImplementedError

    def smoothed(self, sigma: float) -> None:
        """The map is smoothed by `sigma` working pixels from here on."""
        kernel = gaussian(sigma / self.cell, self.kernel) if sigma else torch.ones(1)
        self.kernel.copy_(pad(kernel, ((len(self.kernel) - len(kernel)) // 2,) * 2))

    def mixed(self, alpha: float) -> None:
        """The critic has the share `alpha` in the map from here on, the residual the rest."""
        self.weights.copy_(torch.tensor([alpha, 1 - alpha, self.likelihood]))

    def standardised(self, x: Tensor) -> Tensor:
        """Critic, residual and likelihood, smoothed, with mean 0 and spread 1 on normal images; in source mode without.

        At the edge of an image a network sees less and is less sure, of normal images as well, so mean and spread are
        those of the same distance from the edge. Of two critics the more alarmed one counts, place by place, softly
        (logsumexp): a pit is for one to see, a wide film for the other. The residual's long tails on normal images are
        cut at `limit`: it may tip the scales, but no threshold has to be set by it.
        """
        return self.relative(self.components(x))

    def relative(self, field: Tensor) -> Tensor:
        found = self.pooled(field)
        if self.score == "source":
            return found
        found = (found - along(self.mean, found)) / along(self.spread, found)
        critic, residual, surprise, *fine = found.split(1, 1)
        for other in fine:  # logsumexp, by operators that bundles may hold
            critic = torch.maximum(critic, other) + (1 + (-(critic - other).abs()).exp()).log()
        return torch.cat((critic, residual.clamp(-self.limit, self.limit), surprise), 1)

    def pooled(self, field: Tensor) -> Tensor:
        """`components`, smoothed. Of the critic's log-odds the odds are averaged, not their logarithms: a pit that
        fills a small part of the window must not drown in the certainty around it that all is well.
        """
        if self.score == "source":
            return blur(field, self.kernel)
        critic, residual, surprise, *fine = field.split(1, 1)
        found = blur(torch.cat((odds(critic), residual, surprise, *map(odds, fine)), 1), self.kernel)
        critic, residual, surprise, *fine = found.split(1, 1)
        return torch.cat((critic.log(), residual, surprise, *(one.log() for one in fine)), 1)

    def standardise(self, fields: Sequence[Tensor]) -> None:
        """Mean and spread of the smoothed components of normal images, by distance from the edge."""
        fields = [self.pooled(field) for field in fields]
        depth = torch.cat([depths(field).flatten() for field in fields])
        values = torch.cat([field.flatten(2)[0] for field in fields], 1)
        for ring in range(RINGS + 1):
            here = values[:, depth.round() == ring]
            if here.shape[1] > 1:  # narrow images have no middle
                self.mean[:, ring] = here.mean(1)
                self.spread[:, ring] = here.std(1).clamp_min(1e-6)

    def tune(self, normals: Sequence[Tensor], fields: Sequence[Tensor]) -> None:
        """Smoothing and mixing, so far as they are not given, from normal images with synthetic defects that training
        leaves out.

        The residual's share is the larger the better it tells such defects alone: 0 at an AUROC of 0.5, SHARE from 0.75
        on. The smoothing is the one with the largest pixel AUROC against masks as generous as people draw them.
        """
        cell = self.cell * self.shrink
        examples = [
            (self.components(x), avg_pool2d(generous(opacity), cell).flatten() > 0.5)
            for x, opacity in examples_of(normals, self.stride)
        ]
        truth = torch.cat([mask for _, mask in examples]).cpu()
        best = -1.0
        sigmas = SIGMAS if self.smoothing is None else (self.smoothing,)
        self.found = {"smoothing": sigmas[0], "alpha": 1 - SHARE if self.alpha is None else self.alpha}
        telling = bool(truth.any() and not truth.all())  # else no defect can be seen, and nothing tells settings apart
        for sigma in sigmas if telling else ():
            self.smoothed(sigma)
            self.standardise(fields)
            found = torch.cat([self.relative(field).flatten(2)[0] for field, _ in examples], 1).cpu()
            worth = float(roc_auc_score(truth, found[1]))
            alpha = 1 - SHARE * min(max(4 * (worth - 0.5), 0.0), 1.0) if self.alpha is None else self.alpha
            value = float(roc_auc_score(truth, alpha * found[0] + (1 - alpha) * found[1]))
            if value > best:
                best, self.found = value, {"smoothing": sigma, "alpha": round(alpha, 3)}
        self.smoothed(self.found["smoothing"])
        self.standardise(fields)
        self.mixed(self.found["alpha"])
