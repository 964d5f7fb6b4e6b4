"""Sparse codes against scikit-learn; K-SVD finds a planted dictionary."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import sparse_encode
from torch.nn.functional import normalize

from anomalib_gan.sparse import ksvd, lasso, omp


@pytest.mark.parametrize("solver", ["lasso", "omp"])
def test_sparse_codes_are_those_of_scikit_learn(solver):
    torch.manual_seed(0)
    D, z = normalize(torch.randn(20, 32), dim=0).double(), torch.randn(50, 20).double()
    given = {"penalty": 0.3, "iterations": 5000} if solver == "lasso" else {"nonzeros": 4}
    wanted = (
        {"algorithm": "lasso_lars", "alpha": 0.3} if solver == "lasso" else {"algorithm": "omp", "n_nonzero_coefs": 4}
    )
    expected = torch.from_numpy(sparse_encode(z.numpy(), D.T.contiguous().numpy(), **wanted))
    found = (lasso if solver == "lasso" else omp)(D, z, **given)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(found.abs() > 1e-6, expected.abs() > 1e-6)


def test_k_svd_finds_the_atoms_that_vectors_were_made_of():
    torch.manual_seed(0)
    planted = normalize(torch.randn(16, 20), dim=0)
    codes = torch.zeros(3000, 20)
    codes.scatter_(1, torch.rand(3000, 20).topk(2, 1).indices, torch.randn(3000, 2) + 1)
    z = codes @ planted.T
    rounds = list(ksvd(z, 24, 2, 25))
    D, left = rounds[-1]
    assert torch.allclose(D.norm(dim=0), torch.ones(24), atol=1e-5)
    assert left < 0.3 * rounds[0][1]
    found = (D.T @ planted).abs().max(0).values  # each planted atom beside the one most like it
    assert float((found > 0.98).float().mean()) >= 0.9


def test_k_svd_of_fewer_vectors_than_atoms_is_refused():
    with pytest.raises(ValueError, match="5 vectors are too few for 8 atoms: give more of them, or fewer atoms"):
        next(ksvd(torch.randn(5, 4), 8, 2, 1))
