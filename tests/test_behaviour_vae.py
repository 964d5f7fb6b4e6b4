"""What theory says of autoencoders and variational ones, on small patches whose law is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from anomalib_gan.evidence import code_figures, elbo, evidence_table
from anomalib_gan.models import build
from anomalib_gan.penalties import total_correlation
from anomalib_gan.training import Trainer

SMALL = {"patch": 8, "shrink": 1, "batch": 128, "smoothing": 0.0}


def learnt(name, data, steps, **params):
    """A model of 8 x 8 patches, trained on some of them and settled."""
    torch.manual_seed(0)
    model = build(name, **{**SMALL, **params})

    def batch(n):
        chosen = torch.randint(len(data), (model.batch,), generator=torch.Generator().manual_seed(n))
        return data[chosen]

    trainer = Trainer(model, batch, steps, seed=0)
    for _ in trainer:
        pass
    return trainer.finish([one[None] for one in data[:64]])


def linear_patches(m=4096, rank=4, noise=0.45):
    """x = mu + W z + noise: (M, 1, 8, 8) whose distribution is one of probabilistic PCA."""
    torch.manual_seed(0)
    W = torch.linalg.qr(torch.randn(64, rank)).Q * torch.tensor([3.0, 2.2, 1.6, 1.2])[:rank]
    x = 0.3 * torch.randn(64) + torch.randn(m, rank) @ W.T + noise * torch.randn(m, 64)
    return x.view(m, 1, 8, 8)


def probabilistic_pca(x, rank):
    """The largest mean log-likelihood of Tipping and Bishop (1999), in nats for each patch, and its noise variance."""
    values = torch.linalg.eigvalsh(torch.cov(x.flatten(1).T.double(), correction=0)).flip(0)
    variance = values[rank:].mean()
    volume = values[:rank].log().sum() + (64 - rank) * variance.log()
    return float(-(64 * math.log(2 * math.pi) + volume + 64) / 2), float(variance)


@pytest.fixture(scope="module")
def linear():
    x = linear_patches()
    best, variance = probabilistic_pca(x, 4)
    return learnt("vae", x, 1500, kind="linear", code=4, variance=variance, warm_up=0.0, lr=1e-2), x, best


def exact(model, x):
    """log p(x) = log N(x; b, W W^T + sigma^2 I) of a linear variational autoencoder, (M,)."""
    with torch.no_grad():
        b = model.G(torch.zeros(1, 4, 1, 1)).flatten().double()
        W = model.G(torch.eye(4).view(4, 4, 1, 1)).flatten(1).double() - b  # (4, 64), rows are the columns of W
    p = MultivariateNormal(b, W.T @ W + model.likelihood.variance * torch.eye(64))
    return p.log_prob(x.flatten(1).double())


@pytest.mark.slow
@torch.no_grad()
def test_a_linear_vae_reaches_the_bound_of_probabilistic_pca_and_its_codes_are_the_prior(linear):
    model, x, best = linear
    found = float(elbo(model, x, torch.randn(400, 4, 1, 1, generator=torch.Generator().manual_seed(0))).mean())
    one_less, _ = probabilistic_pca(x, 3)
    assert one_less < 1.02 * best  # in negative nats: a unit less would be seen
    assert 1.01 * best <= found <= float(exact(model, x).mean()) + 0.1 <= best + 0.1
    figures = code_figures(model, x)
    assert figures["active"] == 4 and figures["aggregate"] < 0.1


@pytest.mark.slow
def test_importance_sampling_converges_to_the_exact_log_p_and_the_prior_needs_more(linear):
    model, x, _ = linear
    rows = evidence_table(model, x[:128], exact=exact(model, x[:128]), samples=(1, 16, 256))
    prior, importance = rows[:3], rows[3:]
    assert abs(importance[-1]["bias"]) < 0.02
    for one, other in zip(prior, importance, strict=True):
        assert one["bias"] < 0 and abs(one["bias"]) > 10 * abs(other["bias"])
        assert one["deviation"] > 5 * other["deviation"]
    assert abs(prior[0]["bias"]) > 2 * abs(prior[2]["bias"])


def spots(m=4096):
    """A bright spot anywhere in a dark 8 x 8 patch, (M, 1, 8, 8): two independent factors, where it is."""
    torch.manual_seed(0)
    place = 1.5 + 4 * torch.rand(m, 2, 1)
    row, column = (torch.exp(-((torch.arange(8) - one).square()) / 3) for one in place.unbind(1))
    return 2 * (row[:, :, None] * column[:, None]).view(m, 1, 8, 8) - 1


@torch.no_grad()
def correlation_of(model, x):
    q = model.posterior(x[:2048])
    torch.manual_seed(0)
    return float(total_correlation(*(one.flatten(1) for one in (q.sample(), q.mean, 2 * q.stddev.log()))))


@torch.no_grad()
def error_of(model, x):
    return float((model.reconstruct(x) - x).square().mean())


@pytest.mark.slow
def test_beta_tc_vae_has_less_total_correlation_than_vae_at_equal_reconstruction():
    x = spots()
    given = {"kind": "mlp", "code": 3, "width": 16, "variance": 0.02, "lr": 5e-3}
    plain, apart = learnt("vae", x, 1500, **given), learnt("beta_tc_vae", x, 1500, **given)
    assert error_of(apart, x) < 1.15 * error_of(plain, x)
    assert correlation_of(apart, x) < 0.5 * correlation_of(plain, x)


@pytest.mark.slow
@torch.no_grad()
def test_an_autoencoder_decoded_from_the_prior_is_farther_from_the_data_than_a_vae():
    x = spots()
    given = {"kind": "mlp", "code": 8, "width": 16, "lr": 5e-3}
    with torch.enable_grad():
        ae = learnt("ae", x, 800, **given, residual="l2")
        vae = learnt("vae", x, 800, **given, variance=0.2)
    torch.manual_seed(0)
    assert error_of(ae, x) < error_of(vae, x)  # it rebuilds better
    z = torch.randn(512, 8, 1, 1)
    drawn, data = [m.flatten(1) for m in (ae.G(z), vae.generate(z))], x.flatten(1)
    nearest = [float(torch.cdist(m, data).min(1).values.mean()) for m in drawn]
    assert nearest[0] > 1.2 * nearest[1]
    energy = [float(2 * torch.cdist(m, data).mean() - torch.cdist(m, m).mean()) for m in drawn]
    within = float(torch.cdist(data, data).mean())  # the energy distance of samples and data, 0 where they agree
    assert energy[0] - within > 1.5 * (energy[1] - within) > 0
