"""Sparse coding: the published detector of defects in nanofibres. Closed form: nobody plays, `settle` learns.

Normal patches z are sums of few atoms of a dictionary D that is learnt from them, a defective one is badly rebuilt or
takes many:

    x^ = argmin 1/2 ||D x - z||^2 + lambda ||x||_1,   f = (||D x^ - z||, ||x^||_1),   map = -log phi0(f)

with phi0 the density of f on normal patches. Defect Detection in SEM Images of Nanofibrous Materials (Carrera,
Manganini, Boracchi and Lanzarone, 2017). D: Online Dictionary Learning for Sparse Coding (Mairal et al., 2009).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import conv_transpose2d, fold, softshrink, unfold

from anomalib_gan.model import About, Model, Player, crops
from anomalib_gan.nets import enlarge, shrink

CHUNK = 4096  # patches that are coded at once, which bounds the memory
KERNELS = 1024  # normal patches in whose features the density's kernels are centred
log = logging.getLogger(__name__)


class SparseCoding(Model):
    """Patches of `side` x `side` working pixels, every `step` of them (a divisor of `side`) from the image's origin.

    `atoms`: columns of the dictionary, learnt from `samples` normal patches. `solver`: of the codes, "lasso" with
    `penalty` lambda (FISTA, `iterations` rounds) or "omp" with `nonzeros` atoms a patch. A patch loses its mean, and
    all are divided by the root mean square norm of normal ones, so that lambda has no unit. `density`: phi0 as "kde",
    Gaussian kernels of Scott's width, or as one "gaussian". `shrink`: the working scale is 1/shrink of the image.
    """

    about = About("normal patches are sums of few atoms of a learnt dictionary", "Carrera et al., 2017", "explicit")
    exportable = "the map needs an optimisation, which finds the sparse code of every patch"

    def __init__(
        self,
        channels: int = 1,
        side: int = 16,
        step: int = 4,
        atoms: int = 256,
        solver: Literal["lasso", "omp"] = "lasso",
        penalty: float = 0.1,
        nonzeros: int = 8,
        iterations: int = 50,
        density: Literal["kde", "gaussian"] = "kde",
        samples: int = 20_000,
        shrink: int = 2,
    ) -> None:
        super().__init__()
        if side % step:
            raise ValueError(
                f"patches of {side} px every {step} px do not cover all pixels alike: let step divide side"
            )
        self.channels, self.side, self.step, self.shrink, self.samples = channels, side, step, shrink, samples
        self.solver, self.penalty, self.density = solver, penalty, density
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
        self.D: Tensor
        self.norm: Tensor
        self.kernels: Tensor
        self.whiten: Tensor

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
        """f of (M, n), in units of the kernels' width, (M, 2)."""
        z, x = self.encode(patches)
        return torch.stack(((x @ self.D.T - z).norm(dim=1), x.abs().sum(1)), 1) @ self.whiten

    def surprise(self, patches: Tensor) -> Tensor:
        """-log phi0 of (M, n), but for a constant: (M,)."""
        exact = "donot_use_mm_for_euclid_dist"  # the other way takes differences of large squares
        return -torch.cat(
            [
                (-torch.cdist(f, self.kernels, compute_mode=exact).square() / 2).logsumexp(1)
                for f in self.features(patches).split(CHUNK)
            ]
        )

    def anomaly_map(self, x: Tensor) -> Tensor:
        s = shrink(x, self.shrink)
        rows, columns = ((size - self.side) // self.step + 1 for size in s.shape[-2:])
        each = self.surprise(self.patches(s)).view(-1, 1, rows, columns)
        cover = torch.ones(1, 1, self.side // self.step, self.side // self.step).to(s)
        # A patch answers for all pixels that it covers, and these take the mean: (N, 1, h / step, w / step).
        mean = conv_transpose2d(each, cover) / conv_transpose2d(torch.ones_like(each), cover)
        return enlarge(mean, self.step * self.shrink)

    def reconstruct(self, x: Tensor) -> Tensor:
        """D x^ with the patches' means, averaged where patches overlap, at the size of x."""
        s = shrink(x, self.shrink)
        patches = self.patches(s)
        again = self.encode(patches)[1] @ self.D.T * self.norm + patches.mean(1, keepdim=True)
        laid = [
            fold(some.view(len(s), -1, some.shape[1]).transpose(1, 2), s.shape[-2:], self.side, stride=self.step)
            for some in (again, torch.ones_like(again))
        ]
        return enlarge(laid[0] / laid[1], self.shrink)

    @torch.no_grad()
    def settle(self, normals: Sequence[Tensor]) -> None:
        """Learns D from half of a random sample of normal patches, and phi0 from the other half."""
        patches = next(crops([shrink(x, self.shrink) for x in normals], self.side, self.samples)).flatten(1)
        seen, unseen = patches.chunk(2)
        self.norm.copy_((seen - seen.mean(1, keepdim=True)).square().sum(1).mean().sqrt().clamp_min(1e-6))
        self.D.copy_(self.learn((seen - seen.mean(1, keepdim=True)) / self.norm))
        self.whiten.copy_(torch.eye(2))
        f = self.features(unseen)
        root = torch.linalg.cholesky(torch.cov(f.T) + 1e-8 * torch.eye(2).to(f))
        if self.density == "kde":
            width = len(self.kernels) ** (-1 / 6)  # Scott (1992), in two dimensions
            centres = f[torch.randint(len(f), (len(self.kernels),))]
        else:
            width, centres = 1.0, f.mean(0, keepdim=True)
        self.whiten.copy_(torch.linalg.inv(width * root).T)
        self.kernels.copy_(centres @ self.whiten)

    def learn(self, z: Tensor) -> Tensor:
        """D from patches (M, n), in one pass over them: columns of at most unit norm. Progress goes to the log."""
        from sklearn.decomposition import MiniBatchDictionaryLearning  # here, for it takes a second

        rounds = math.ceil(len(z) / self.batch)

        def tell(state: dict[str, Any]) -> None:
            if state["i"] % 10 == 0:
                log.info("dictionary: round %d of %d", state["i"], rounds)

        learner = MiniBatchDictionaryLearning(
            n_components=self.D.shape[1],
            alpha=self.penalty,
            max_iter=1,
            batch_size=self.batch,
            fit_algorithm="lars",
            callback=tell,
            random_state=int(torch.randint(2**31, ())),
        )
        return torch.from_numpy(learner.fit(z.cpu().numpy()).components_.T)


def lasso(D: Tensor, z: Tensor, penalty: float, iterations: int) -> Tensor:
    """argmin 1/2 ||D x - z||^2 + penalty ||x||_1 for each row of z (M, n), nearly: (M, atoms).

    FISTA (Beck and Teboulle, 2009), with a fixed number of iterations so that a patch's code depends on nothing else.
    """
    gram, target = D.T @ D, z @ D
    slope = torch.linalg.eigvalsh(gram)[-1].clamp_min(1e-6)
    x = y = torch.zeros_like(target)
    t = 1.0
    for _ in range(iterations):
        before, x = x, softshrink(y - (y @ gram - target) / slope, float(penalty / slope))
        t, last = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        y = x + (last - 1) / t * (x - before)
    return x


def omp(D: Tensor, z: Tensor, nonzeros: int) -> Tensor:
    """argmin ||D x - z|| with so many entries of x, one by one, for each row of z (M, n): (M, atoms).

    Batch orthogonal matching pursuit (Rubinstein et al., 2008). In double precision, lest rounding decide which atom is
    taken and tiles differ from the whole.
    """
    gram, target = D.double().T @ D.double(), z.double() @ D.double()
    ridge = 1e-9 * torch.eye(nonzeros).to(gram)  # for atoms that are nearly the same
    code, left = torch.zeros_like(target), target
    chosen = torch.empty(len(z), 0, dtype=torch.long, device=z.device)
    for count in range(1, nonzeros + 1):
        best = left.abs().scatter(1, chosen, -1.0).argmax(1, keepdim=True)
        chosen = torch.cat((chosen, best), 1)
        inner = gram[chosen[:, :, None], chosen[:, None]] + ridge[:count, :count]
        x = torch.linalg.solve(inner, target.gather(1, chosen)[..., None])[..., 0]
        code = torch.zeros_like(target).scatter(1, chosen, x)
        left = target - code @ gram
    return code.to(z)
