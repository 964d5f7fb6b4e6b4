"""Sparse coding: the published detector of defects in nanofibres. Closed form: nobody plays, `settle` learns.

Normal patches z are sums of few atoms of a dictionary D that is learnt from them, a defective one is badly rebuilt or
takes many:

    x^ = argmin 1/2 ||D x - z||^2 + lambda ||x||_1,   f = (log ||D x^ - z||, log ||x^||_1),   map = -log phi0(f)

with phi0 the density of f on normal patches; in logarithms, since patches differ by factors, and smooth ones have
little of both. Defect Detection in SEM Images of Nanofibrous Materials (Carrera, Manganini, Boracchi and Lanzarone,
2017). D: Online Dictionary Learning for Sparse Coding (Mairal et al., 2009), or K-SVD (Aharon et al., 2006). A patch is
an outlier where phi0 is below what all but a few normal ones have: the map is beyond Gamma.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import unfold

from anomalib_gan.likelihoods import kernel_density, rarity
from anomalib_gan.model import About, Model, Player, crops
from anomalib_gan.nets import enlarge, shrink
from anomalib_gan.patches import averaged, covering, laid
from anomalib_gan.sparse import CHUNK, ksvd, lasso, omp, online

ROUNDS = 10  # of K-SVD
KERNELS = 1024  # normal patches in whose features the density's kernels are centred
FAINT = 0.02  # in units of `norm`: added to both before the logarithm, since a flat patch has none
log = logging.getLogger(__name__)


class SparseCoding(Model):
    """Patches of `side` x `side` working pixels, every `step` of them (a divisor of `side`) from the image's origin.

    `atoms`: columns of the dictionary, learnt from `samples` normal patches, `dictionary` "online" or by "ksvd" (with
    `nonzeros` atoms a patch, whatever the solver of the codes). `solver`: of the codes, "lasso" with
    `penalty` lambda (FISTA, `iterations` rounds) or "omp" with `nonzeros` atoms a patch. A patch loses its mean, and
    all are divided by the root mean square norm of normal ones, so that lambda has no unit. `density`: phi0 as "kde",
    Gaussian kernels of Scott's width, or as one "gaussian". `false_alarms`: the share of normal patches beyond Gamma.
    `shrink`: the working scale is 1/shrink of the image.
    """

    about = About("normal patches are sums of few atoms of a learnt dictionary", "Carrera et al., 2017", "explicit")
    D: Tensor
    norm: Tensor
    kernels: Tensor
    whiten: Tensor
    Gamma: Tensor
    exportable = "the map needs an optimisation, which finds the sparse code of every patch"

    def __init__(
        self,
        channels: int = 1,
        side: int = 24,
        step: int = 4,
        atoms: int = 256,
        dictionary: Literal["online", "ksvd"] = "online",
        solver: Literal["lasso", "omp"] = "lasso",
        penalty: float = 0.2,
        nonzeros: int = 8,
        iterations: int = 50,
        density: Literal["kde", "gaussian"] = "kde",
        false_alarms: float = 0.01,
        samples: int = 20_000,
        shrink: int = 2,
    ) -> None:
        super().__init__()
        self.cells = covering(side, step)
        self.channels, self.side, self.step, self.shrink, self.samples = channels, side, step, shrink, samples
        self.solver, self.penalty, self.nonzeros, self.density = solver, penalty, nonzeros, density
        self.dictionary, self.false_alarms = dictionary, false_alarms
        self.coder = {
            "lasso": partial(lasso, penalty=penalty, iterations=iterations),
            "omp": partial(omp, nonzeros=nonzeros),
        }[solver]
        self.patch = self.smallest = side * shrink
        self.batch = 256  # patches a round of the dictionary's learning
        self.stride = step * shrink
        self.halo = (side + 2 * step) * shrink
        self.register_buffer("D", torch.zeros(channels * side**2, atoms))
        self.register_buffer("norm", torch.ones(()))  # root mean square of normal patches
        self.register_buffer("kernels", torch.zeros(KERNELS if density == "kde" else 1, 2))
        self.register_buffer("whiten", torch.eye(2))  # takes features into units of the kernels' width
        self.register_buffer("Gamma", torch.zeros(()))

    def players(self) -> dict[str, Player]:
        return {}

    def patches(self, s: Tensor) -> Tensor:
        """(N, C, h, w) -> (N M, n): all patches of the grid by rows, n = C side^2 numbers each."""
        return unfold(s, self.side, stride=self.step).transpose(1, 2).flatten(0, 1)

    def encode(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """(M, n) -> the patches z (M, n) without mean, in units of `norm`, and their codes x^ (M, atoms)."""
        z = (patches - patches.mean(1, keepdim=True)) / self.norm
        return z, torch.cat([self.coder(self.D, some) for some in z.split(CHUNK)])

    def features(self, patches: Tensor) -> Tensor:
        """f of (M, n): (M, 2)."""
        z, x = self.encode(patches)
        return (torch.stack(((x @ self.D.T - z).norm(dim=1), x.abs().sum(1)), 1) + FAINT).log()

    def surprise(self, patches: Tensor) -> Tensor:
        """-log phi0 of (M, n), but for a constant: (M,)."""
        return torch.cat([rarity(f @ self.whiten, self.kernels) for f in self.features(patches).split(CHUNK)])

    def anomaly_map(self, x: Tensor) -> Tensor:
        s = shrink(x, self.shrink)
        rows, columns = ((size - self.side) // self.step + 1 for size in s.shape[-2:])
        each = self.surprise(self.patches(s)).view(-1, 1, rows, columns)
        return enlarge(averaged(each, self.cells), self.stride)

    def outliers(self, x: Tensor) -> Tensor:
        """Where (N, C, H, W) is no normal material, by Gamma: (N, 1, H, W), bool."""
        return self.anomaly_map(x) > self.Gamma

    def reconstruct(self, x: Tensor) -> Tensor:
        """D x^ with the patches' means, averaged where patches overlap, at the size of x."""
        s = shrink(x, self.shrink)
        patches = self.patches(s)
        again = self.encode(patches)[1] @ self.D.T * self.norm + patches.mean(1, keepdim=True)
        rows, columns = ((size - self.side) // self.step + 1 for size in s.shape[-2:])
        each = again.view(len(s), rows, columns, -1).movedim(-1, 1)  # (N, n, rows, columns)
        kernel = torch.eye(again.shape[1]).to(s).view(-1, self.channels, self.side, self.side)
        return enlarge(laid(each, kernel, self.step), self.shrink)

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        """Learns D from half of a random sample of normal patches, and phi0 from the other half."""
        patches = next(crops([shrink(x, self.shrink) for x in normals], self.side, self.samples)).flatten(1)
        seen, unseen = patches.chunk(2)
        self.norm.copy_((seen - seen.mean(1, keepdim=True)).square().sum(1).mean().sqrt().clamp_min(1e-6))
        self.D.copy_(self.learn((seen - seen.mean(1, keepdim=True)) / self.norm))
        whiten, centres = kernel_density(self.features(unseen), len(self.kernels))
        self.whiten.copy_(whiten)
        self.kernels.copy_(centres)
        self.Gamma.copy_(torch.quantile(self.surprise(unseen), 1 - self.false_alarms))

    def learn(self, z: Tensor) -> Tensor:
        """D from patches (M, n): columns of at most unit norm. "online" passes over them once. It tells the log."""
        if self.dictionary == "ksvd":
            *_, (D, left) = ksvd(z, self.D.shape[1], self.nonzeros, ROUNDS)
            log.info("dictionary: K-SVD leaves %.4g of the patches' norm", left)
            return D
        return online(z, self.D.shape[1], self.penalty, self.batch, log.info)
