"""Sparse codes of vectors over a dictionary, in batches on the device; and K-SVD, which learns a dictionary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, softshrink

CHUNK = 4096  # vectors that are coded at once, which bounds the memory


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


def online(z: Tensor, atoms: int, penalty: float, batch: int, say: Callable[..., None]) -> Tensor:
    """The dictionary (n, atoms) of columns of at most unit norm that one pass over z (M, n), `batch` vectors at a time,
    learns for codes by the lasso: Online Dictionary Learning for Sparse Coding (Mairal et al., 2009), scikit-learn's.

    `say` is told now and then how far it is, as a logger is. The randomness is torch's.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning  # here, for it takes a second

    rounds = math.ceil(len(z) / batch)

    def tell(state: dict[str, Any]) -> None:
        if state["i"] % 10 == 0:
            say("dictionary: round %d of %d", state["i"], rounds)

    learner = MiniBatchDictionaryLearning(
        n_components=atoms,
        alpha=penalty,
        max_iter=1,
        batch_size=batch,
        fit_algorithm="lars",
        callback=tell,
        random_state=int(torch.randint(2**31, ())),
    )
    return torch.from_numpy(learner.fit(z.cpu().numpy()).components_.T)


def ksvd(z: Tensor, atoms: int, nonzeros: int, rounds: int) -> Iterator[tuple[Tensor, float]]:
    """Round by round, the dictionary of unit columns (n, atoms) that fits z (M, n) with so many atoms each, and the
    root mean square of what it leaves.

    K-SVD (Aharon et al., 2006): codes by OMP, then atom by atom the best rank-one fit of what the others leave of the
    vectors that use it, by one power iteration (Rubinstein et al., 2008). An atom that nobody uses becomes the vector
    that is fitted worst. It begins with vectors of z drawn at random.
    """
    if len(z) < atoms:
        raise ValueError(f"{len(z)} vectors are too few for {atoms} atoms: give more of them, or fewer atoms")
    D = normalize(z[torch.randperm(len(z))[:atoms].to(z.device)], dim=1).T.contiguous()
    for _ in range(rounds):
        x = torch.cat([omp(D, some, nonzeros) for some in z.split(CHUNK)])  # (M, atoms)
        left = z - x @ D.T
        taken: list[int] = []
        for atom in range(atoms):
            users = x[:, atom].nonzero()[:, 0]
            if len(users) == 0:
                worst = left.square().sum(1)
                worst[taken] = -1.0  # lest two idle atoms become the same
                taken.append(int(worst.argmax()))
                D[:, atom] = normalize(z[taken[-1]], dim=0)
                continue
            rest = left[users] + x[users, atom, None] * D[:, atom]
            D[:, atom] = normalize(x[users, atom] @ rest, dim=0)
            x[users, atom] = rest @ D[:, atom]
            left[users] = rest - x[users, atom, None] * D[:, atom]
        yield D, float(left.square().sum(1).mean().sqrt())
