"""Laws of every model in the zoo. A new model adds at most a row of small settings here, never a test."""

from __future__ import annotations

import copy
import itertools
import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from bundles import manifest
from sklearn import decomposition
from torch.distributions import MultivariateNormal
from torch.nn.functional import fold, interpolate, unfold

from anomalib_gan.export import TorchBackend, model_graph
from anomalib_gan.model import Labelled, Pair
from anomalib_gan.models import MODELS, build
from anomalib_gan.nets import shrink
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.graphs import check_graph
from anomalib_gan.runtime.image import ImageError, open_image
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.session import OnnxBackend
from anomalib_gan.runtime.volume import VolumeInspector
from anomalib_gan.training import Trainer
from anomalib_gan.translation import Translator

AE = {"width": 8, "code": 4, "patch": 64, "batch": 3, "smoothing": 2.0}
PATCHES = {"width": 8, "code": 6, "batch": 8, "smoothing": 2.0, "lr": 2e-3}
VAE = {**AE, "variance": 0.05, "samples": 3}
# A critic that is flat at real images keeps a small game from losing phases of the stripes.
GAN = {"width": 16, "code": 8, "patch": 32, "batch": 8, "smoothing": 2.0, "steps": 25, "r1": 1.0}
CYCLE = {"width": 8, "blocks": 1, "patch": 64, "batch": 2, "shrink": 2, "pool": 3, "smoothing": 2.0, "lr": 2e-3}
UPSCALING = {"width": 8, "blocks": 1, "patch": 32, "batch": 4, "smoothing": 2.0, "vgg": ""}
VOXELS = {"width": 8, "code": 8, "side": 16, "batch": 8, "smoothing": 2.0, "steps": 15, "r1": 1.0}
DICTIONARY = {"side": 8, "atoms": 24, "samples": 1000, "iterations": 20}
# Small settings by model; after a space, those that make another model of it, to which the laws apply as well.
SMALL = {
    "fcbigan": {"width": 8, "code": 4, "patch": 64},
    "fcbigan given": {"width": 8, "code": 4, "patch": 64, "alpha": 0.75, "smoothing": 2.0, "likelihood": 0.1},
    "fcbigan_source": {"width": 8, "code": 8, "likelihood": 0.1},
    "gaussian": {"side": 8},
    "gaussian apart": {"side": 8, "step": 8, "shrink": 1, "score": "direction"},
    "gaussian typical": {"side": 8, "score": "typicality"},
    "pca": {"side": 8, "step": 4, "code": 6},
    "pca apart": {"side": 8, "step": 8, "code": 6, "shrink": 1, "residual": "l2", "smoothing": 0.0},
    "ae": AE,
    "ae mlp": {**AE, "kind": "mlp", "residual": "l1", "regulariser": "tv"},
    "ae stacked": {**AE, "kind": "stacked", "residual": "l2", "regulariser": "edges"},
    "sparse_coding": DICTIONARY,
    "sparse_coding omp": {**DICTIONARY, "solver": "omp", "dictionary": "ksvd", "nonzeros": 3, "density": "gaussian"},
    "sparse_ae": AE,
    "sparse_ae wide": {**AE, "kind": "mlp", "code": 80, "residual": "l1", "smoothing": 0.0},
    "denoising_ae": AE,
    "denoising_ae stacked": {**AE, "kind": "stacked", "residual": "ssim"},
    "vae": VAE,
    "vae bernoulli": {**VAE, "kind": "mlp", "likelihood": "bernoulli", "score": "importance"},
    "vae categorical": {**VAE, "likelihood": "categorical", "levels": 5, "score": "importance"},
    "vae linear": {**VAE, "kind": "linear", "score": "prior", "samples": 128, "smoothing": 0.0, "lr": 1e-2},
    "beta_tc_vae": VAE,
    "vae_gan": AE,
    "vae_gan l2": {**AE, "residual": "l2", "objective": "least-squares"},
    "bigan": PATCHES,
    "bigan critic": {**PATCHES, "score": "critic", "prior": "uniform", "regulariser": "mutual_information"},
    "bigan prior": {**PATCHES, "score": "prior", "objective": "minimax", "regulariser": "total_correlation"},
    "ganomaly": AE,
    "ganomaly l1": {**AE, "residual": "l1", "alpha": 0.9},
    "cycle_gan": CYCLE,
    "cycle_gan translator": {**CYCLE, "translator": True},
    "pix2pix": {"width": 8, "patch": 64, "batch": 3, "shrink": 2, "smoothing": 2.0},
    "pix2pix l1": {"width": 8, "patch": 64, "batch": 3, "residual": "l1", "hidden": 4, "objective": "hinge"},
    "pix2pix translator": {"width": 8, "patch": 64, "batch": 3, "translator": True},
    "ddpm": {"width": 16, "patch": 64, "batch": 8, "period": 16, "smoothing": 2.0},
    "ddpm velocity": {
        "width": 8,
        "patch": 32,
        "batch": 8,
        "shrink": 1,
        "target": "velocity",
        "steps": 1,
        "residual": "ssim",
    },
    **dict.fromkeys(("gan", "dcgan", "info_gan", "geo_gan", "cgan", "ac_gan"), GAN),
    "gan minimax": {**GAN, "objective": "minimax"},
    "dcgan energy": {**GAN, "objective": "energy", "r1": 10.0},
    "lsgan": {**GAN, "r1": 4.0},
    "wgan": {**GAN, "r1": 10.0, "critic_steps": 2},
    "wgan_gp": {**GAN, "r1": 0.0, "critic_steps": 2},
    "sn_gan": {**GAN, "critic_steps": 3},
    "sn_gan classes": {**GAN, "r1": 10.0, "classes": ["one", "two"]},
    "ebgan": {**GAN, "r1": 1.0, "margin": 0.15, "apart": 0.01},
    "pro_gan": {**GAN, "r1": 0.0, "penalty": 1.0},
    "cgan classes": {**GAN, "classes": ["one", "two", "three"]},
    "cgan known": {**GAN, "classes": ["one", "two"], "known": "two"},
    "ac_gan classes": {**GAN, "classes": ["one", "two"]},
    "ac_gan k_plus_one": {**GAN, "classes": ["one", "two"], "critic": "k_plus_one"},
    "mask_gan": {"width": 8, "code": 4, "patch": 32, "batch": 4, "shrink": 1},
    "srgan": UPSCALING,
    "srgan resnet": {**UPSCALING, "adversarial": 0.0},
    "srgan four": {**UPSCALING, "factor": 4, "residual": "l1"},
    **{"gan3d": VOXELS, "gan3d picture": {**VOXELS, "picture": True, "view": "projection"}},
}


def small(name):
    torch.manual_seed(1)
    return build(name.partition(" ")[0], **SMALL.get(name, {}))


def stripes(height, width, channels=1, phase=0.0, depth=None):
    """A normal material: slanted stripes in [-1, 1] with a little noise, (1, C, H, W); with a depth (1, C, D, H, W)."""
    sizes = (height, width) if depth is None else (depth, height, width)
    *slices, rows, columns = torch.meshgrid(*map(torch.arange, sizes), indexing="ij")
    grey = 0.7 * torch.sin((rows + 0.6 * columns + sum(slices)) / 2.5 + phase) + 0.05 * torch.randn(sizes)
    return grey.clamp(-1, 1).expand(1, channels, *sizes).contiguous()


def normal(model, height, width, phase=0.0):
    """The same as the model plays with it: an image, or a volume of two strides' depth."""
    return stripes(height, width, model.channels, phase, 2 * model.stride if model.dim == 3 else None)


def levels(dim, height, width):
    """The same in 8 bits, as an inspector is given it: an image, or a stack, a third as large, for it takes longer."""
    x = stripes(height, width) if dim == 2 else stripes(height // 3, width // 3, depth=40)
    return ((x[0, 0].numpy() + 1) * 127.5).astype(np.uint8)


def inspecting(backend, **options):
    return (Inspector if backend.dim == 2 else VolumeInspector)(backend, **options)


def batches_of(model):
    def batch(n):
        generator = torch.Generator().manual_seed(n)
        phases = torch.rand(model.batch, generator=generator) * 6
        state = torch.random.get_rng_state()
        torch.manual_seed(n)
        sides = (model.patch, model.patch, model.channels)
        depth = model.patch if model.dim == 3 else None
        patches = torch.cat([stripes(*sides, float(p), depth) for p in phases])
        torch.random.set_rng_state(state)
        if model.pairs:
            return counterpart(model, patches)
        return Labelled(patches, torch.arange(model.batch) % len(model.classes)) if model.classes else patches

    return batch


def counterpart(model, x):
    """Images and what a translator is to make of them: the negative, mirrored where they are not to be partners."""
    return Pair(x, -x if model.pairs == "paired" else -x.flip(-1))


def trained(name, steps=3):
    model = small(name)
    trainer = Trainer(model, batches_of(model), steps, seed=0)
    for _ in trainer:
        pass
    return model, trainer


NAMES = list(dict.fromkeys((*MODELS, *SMALL)))
MAPPED = [name for name in NAMES if small(name).mapped is True]
UNMAPPED = [name for name in NAMES if name not in MAPPED]
TRANSLATORS = [name for name in UNMAPPED if small(name).pairs]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=MAPPED)
def mapped(request):
    """The name of a model that has a map."""
    return request.param


@pytest.fixture(params=UNMAPPED)
def unmapped(request):
    return request.param


@pytest.fixture(params=TRANSLATORS)
def translator(request):
    return request.param


@pytest.fixture(params=[*MAPPED, *TRANSLATORS])
def answering(request):
    """The name of a model that makes one map or one image of an image; what paints by chance is passed by."""
    return request.param


@torch.enable_grad()
def settled(name, steps=3):
    model, trainer = trained(name, steps)
    torch.manual_seed(0)
    x = normal(model, 128, 160)
    kept = Labelled(x, torch.zeros(1, dtype=torch.long)) if model.classes else x
    return trainer.finish([counterpart(model, x) if model.pairs else kept])


def answer(model, x):
    """What a model is there for: its map or, where it has none, its translation."""
    return model.anomaly_map(x) if model.mapped is True else model.translate(x)


def test_every_parameter_has_exactly_one_owner(name):
    model = small(name)
    owned = [id(parameter) for player in model.players().values() for parameter in player.parameters()]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())


def test_a_move_changes_exactly_its_player_and_every_parameter_has_a_gradient_within_four_rounds(name):
    model = small(name)
    players, batches = model.players(), batches_of(model)
    owner = {id(p): who for who, player in players.items() for p in player.parameters()}
    trainer = Trainer(model, batches, 4, seed=0)  # at four points of a training: nets may grow
    original = trainer._move

    def watched(who, terms):
        before = {key: value.clone() for key, value in model.named_parameters()}
        original(who, terms)
        for key, value in model.named_parameters():
            if not torch.equal(before[key], value):
                assert owner[id(value)] == who, f"{who}'s move changed {key}"

    trainer._move = watched
    for _ in trainer:
        pass
    for who, player in players.items():
        for parameter in player.parameters():
            state = trainer.optimisers[who].state[parameter]
            gradient = state.get("exp_avg_sq", state["exp_avg"])  # of all rounds, some of which count more
            assert torch.isfinite(gradient).all() and gradient.any()


def losses_and_gradients(name):
    """What a model's players descend in one round on a fixed batch; of a closed-form model quantiles of its map."""
    model = small(name)
    if not model.players():
        found = settled(name).anomaly_map(stripes(128, 160, model.channels))
        return found.detach().quantile(torch.arange(5.0) / 4).tolist()
    parameters = {who: player.parameters() for who, player in model.players().items()}
    batch, found = batches_of(model.train()), []
    torch.manual_seed(2)
    for who, terms in model.play((batch(n) for n in itertools.count()), 0.5):
        gradients = torch.autograd.grad(sum(terms.values()), parameters[who], retain_graph=True, allow_unused=True)
        found += [float(term.detach()) for term in terms.values()]
        found += [float(g.norm()) for g in gradients if g is not None]
    return found


def test_no_two_models_have_the_same_losses_and_gradients_on_one_fixed_batch():
    found = {name: losses_and_gradients(name) for name in MODELS}
    for one, other in itertools.combinations(found, 2):
        assert found[one] != pytest.approx(found[other], rel=1e-6), f"{one} and {other} are the same model"


def test_resumed_equals_uninterrupted(name):
    _, whole = trained(name, 4)
    model = small(name)
    first = Trainer(model, batches_of(model), 4, seed=0)
    for progress in first:
        if progress.step == 2:
            break
    again = small(name)
    second = Trainer(again, batches_of(again), 4, seed=0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again.load_state_dict(model.state_dict())
    for _ in second:
        pass
    for key, value in whole.ema.state_dict().items():
        assert torch.equal(value, second.ema.state_dict()[key]), key
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_spec_round_trips(answering):
    model = settled(answering)
    again = small(answering)
    again.load_state_dict(model.state_dict())
    x = normal(model, 96, 128)
    assert torch.equal(answer(model, x), answer(again.eval(), x))


@torch.no_grad()
def test_the_map_or_the_translation_is_finite_right_shaped_and_local(answering):
    model = settled(answering)
    for tiles in ((8, 10), (13, 9)):
        x = normal(model, *(t * model.stride for t in tiles))
        assert answer(model, x).shape == (1, 1 if model.mapped is True else model.channels, *x.shape[2:])
        assert torch.isfinite(answer(model, x)).all()
    x = normal(model, max(3 * model.stride, model.smallest), 4 * model.stride + 2 * model.halo)
    y = x.clone()
    y[..., -1] = -y[..., -1]
    unchanged = x.shape[-1] - 1 - model.halo
    before, after = answer(model, x)[..., :unchanged], answer(model, y)[..., :unchanged]
    assert torch.allclose(before, after, atol=1e-5 * float(before.std().clamp_min(1e-3)))


@torch.no_grad()
def test_what_the_map_is_made_of_fits_the_image_under_names_that_a_graph_may_have(mapped):
    model = settled(mapped)
    if not hasattr(model, "parts"):
        return
    side = max(2 * model.stride, model.smallest)
    x = normal(model, side, side + model.stride)
    for key, field in model.parts(x).items():
        assert key.isidentifier() and torch.isfinite(field).all()
        if key != "code":
            assert field.shape == (1, model.channels if key == "reconstruction" else 1, *x.shape[2:])


@torch.no_grad()
@pytest.mark.parametrize("size", [(150, 333), (97, 640)])
def test_tiled_equals_whole(mapped, size):
    model = settled(mapped)
    backend = TorchBackend(model, hash="0" * 64, scale=(0.0, 1.0), device="cpu")
    image = levels(model.dim, *size)
    whole = inspecting(backend, tile=2048)(image).map
    tile = (4 if model.dim == 2 else 2) * model.stride
    tiled = inspecting(backend, tile=tile)(image).map
    unit = float(np.quantile(whole, 0.999) - np.quantile(whole, 0.01))
    assert np.abs(tiled - whole).max() <= 1e-5 * unit


@torch.no_grad()
@pytest.mark.parametrize("size", [(150, 333), (97, 640)])
def test_a_translation_in_tiles_equals_that_of_the_whole(translator, size):
    model = settled(translator)
    image = ((stripes(*size)[0, 0].numpy() + 1) * 127.5).astype(np.uint8)
    with open_image(image, info_bar=0) as picture:
        whole, tiled = (
            np.concatenate(list(Translator(model, device="cpu", tile=tile).bands(picture)))
            for tile in (2048, 4 * model.stride)
        )
    assert whole.shape == (*size, model.channels) and np.ptp(whole) > 0
    assert np.abs(tiled - whole).max() <= 1e-5


def test_a_model_without_a_map_says_why(unmapped):
    model = small(unmapped)
    for ask in (lambda: model.anomaly_map(stripes(64, 64)), lambda: model_graph(model)):
        with pytest.raises(ValueError, match=re.escape(str(model.mapped))):
            ask()


@torch.no_grad()
def test_the_smallest_image_has_a_map_and_a_smaller_one_a_reason(mapped):
    model = settled(mapped)
    backend = TorchBackend(model, hash="0" * 64, scale=(0.0, 1.0), device="cpu")
    side = backend.smallest
    assert side % model.stride == 0
    deep = (side,) * (model.dim - 2)
    for size in ((*deep, side, side), (*deep, side, side + 1)):
        image = np.random.default_rng(0).integers(0, 255, size, np.uint8)
        assert inspecting(backend, tile=model.stride)(image).map.shape == size
    with pytest.raises(ImageError, match=f"{side - 1}x{side} is smaller than the model's smallest.*, {side}"):
        inspecting(backend)(image[..., : side - 1, :side])


@torch.no_grad()
def test_scoring_moves_no_statistic_and_ignores_the_rest_of_the_batch(mapped):
    model = settled(mapped)
    backend = TorchBackend(model, hash="0" * 64, scale=(0.0, 1.0), device="cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sizes = (96, 96) if model.dim == 2 else (32, 48, 48)
    a = np.random.default_rng(0).uniform(0, 255, (1, model.channels, *sizes)).astype(np.float32)
    alone = backend(a, 255.0)
    beside = backend(np.concatenate((a, np.zeros_like(a))), 255.0)[:1]
    assert not backend.graph.training
    assert np.allclose(alone, beside, atol=1e-5 * max(1.0, float(np.abs(alone).max())))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@cache
def twins(name):
    """The model as the Inspector's backend, in torch and as the graph that it leaves as."""
    model = settled(name)
    with torch.no_grad():
        low, high = np.quantile(model.anomaly_map(stripes(128, 160, model.channels)), (0.01, 0.999))
    ours = TorchBackend(model, hash="0" * 64, scale=(float(low), float(high)), device="cpu")
    told = manifest(
        **{key: getattr(ours, key) for key in ("channels", "stride", "smallest", "halo", "hash")},
        map_scale=ours.scale,
        calibration=None,
    )
    return ours, OnnxBackend(check_graph(model_graph(model), told), told, device="cpu", threads=1)


@pytest.mark.slow
def test_the_graph_agrees_and_decides_as_the_model_does_or_the_model_says_why_there_is_none(name):
    model = small(name)
    if model.exportable is not True:
        with pytest.raises(ValueError, match=r"^not exportable: \w"):
            model_graph(model)
        return
    ours, theirs = twins(name)
    unit = ours.scale[1] - ours.scale[0]
    rng, stride, side = np.random.default_rng(0), ours.stride, ours.smallest
    for n, down, right, white in ((1, 0, 0, 255), (3, 1, 4, 65535), (2, 5, 2, 4095)):
        shape = (n, ours.channels, side + down * stride, side + right * stride)
        image = rng.uniform(0, white, shape).astype(np.float32)
        assert np.abs(ours(image, float(white)) - theirs(image, float(white))).max() < 1e-4 * unit

    torch.manual_seed(3)
    images = [((stripes(150, 170, phase=k)[0, 0].numpy() + 1) * 32767.5).astype(np.uint16) for k in range(12)]
    normal, images = [Inspector(ours)(image) for image in images[:6]], images[6:]  # others, for thresholds are scores
    calibration = Calibration.fit([one.score for one in normal], [one.peak for one in normal], model=ours.hash)
    for image in images[::2]:
        image[40:80, 60:100] = rng.integers(0, 65535, (40, 40))
    found = [[Inspector(one, calibration=calibration)(image) for image in images] for one in (ours, theirs)]
    for one, other in zip(*found, strict=True):
        assert one.verdict == other.verdict and len(one.defects) == len(other.defects)
        assert one.score == pytest.approx(other.score, abs=1e-4 * unit)


@pytest.mark.slow
def test_tiled_equals_whole_in_the_graph_too(name):
    if small(name).exportable is not True:
        return
    _, backend = twins(name)
    torch.manual_seed(4)
    image = ((stripes(150, 333)[0, 0].numpy() + 1) * 127.5).astype(np.uint8)
    whole, tiled = (Inspector(backend, tile=tile)(image).map for tile in (2048, 4 * backend.stride))
    assert np.abs(tiled - whole).max() <= 1e-5 * (np.quantile(whole, 0.999) - np.quantile(whole, 0.01))


@pytest.mark.slow
def test_a_planted_defect_scores_above_the_normal_area(mapped):
    # Inversion says nothing of what G cannot draw yet, and that is learnt from a critic that has to learn as well.
    model = settled(mapped, steps=200 if small(mapped).exportable is True else 600)
    torch.manual_seed(5)
    x = normal(model, 160, 192, phase=1.0)
    x[..., 64:96, 80:112] = 0.9 * torch.randn(*x.shape[2:-2], 32, 32).clamp(-1, 1)
    found = model.anomaly_map(x).detach()[0, 0]
    outside = torch.cat((found[..., :32, :].flatten(), found[..., 128:, :].flatten()))
    assert found[..., 72:88, 88:104].mean() > outside.mean() + outside.std()


def test_encoder_and_generator_receive_the_critics_gradient():
    for name in ("fcbigan", "fcbigan_source"):
        model = small(name).train()
        batch = batches_of(model)
        for who, terms in model.play((batch(n) for n in range(99)), 0.0):
            if who == "autoencoder":
                for term, net in (("adv_E", model.E), ("adv_G", model.G)):
                    gradients = torch.autograd.grad(terms[term], list(net.parameters()), retain_graph=True)
                    assert all(torch.isfinite(g).all() for g in gradients)
                    assert sum(float(g.abs().sum()) for g in gradients) > 0
        s, z = batch(0)[:1], torch.randn(1, model.code, 64 // 8, 64 // 8)
        if name == "fcbigan":
            s = shrink(batch(0)[:1], model.eval().shrink)
            z = torch.randn(1, model.code, s.shape[-2] // 8, s.shape[-1] // 8)
            assert not torch.allclose(model.D(s, z), model.D(s, z + 1))  # D sees the code, not only the image


def reached(model, terms):
    """The names of the networks of which a sum of terms gives any parameter a gradient."""
    named = list(model.named_parameters())
    found = torch.autograd.grad(sum(terms), [p for _, p in named], retain_graph=True, allow_unused=True)
    return {key.partition(".")[0] for (key, _), one in zip(named, found, strict=True) if one is not None and one.any()}


def test_of_the_three_players_of_vae_gan_each_hears_of_its_own_loss_only():
    model = small("vae_gan").train()
    batch, players = batches_of(model), model.players()
    heard = {}
    for who, terms in model.play((batch(n) for n in range(9)), 0.0):
        heard[who] = {name: reached(model, [term]) for name, term in terms.items()}
        if who == "generator":  # gamma L_like + L_GAN, and nothing of the critic's own loss
            own = players[who].parameters()
            adv, like = (torch.autograd.grad(terms[name], own, retain_graph=True) for name in ("adv", "like"))
            both = torch.autograd.grad(sum(terms.values()), own)
            assert all(torch.allclose(a + b, c, atol=1e-6) for a, b, c in zip(adv, like, both, strict=True))
    assert heard["critic"] == {"adv": {"D"}}  # its fakes are fixed
    assert "G" in heard["generator"]["adv"] and "G" in heard["generator"]["like"]
    assert heard["encoder"]["kl"] == {"E"} and "adv" not in heard["encoder"]


@torch.no_grad()
def test_gaussian_says_how_unlikely_a_patch_is_and_by_typicality_that_the_likeliest_of_all_is_odd():
    torch.manual_seed(0)
    model, x = build("gaussian", side=8, step=4, shrink=1), stripes(64, 80)
    model.settle([x])
    patches = unfold(x, 8, stride=4)[0].T.double()  # (M, 64)
    normal = MultivariateNormal(model.mean, model.covariance)
    expected = -normal.log_prob(patches)
    assert torch.allclose(model.surprise(x).flatten().double(), expected, atol=0.01)
    hidden = torch.zeros(64, dtype=torch.bool)
    hidden[20:45] = True
    mean, covariance = model.infer(patches, hidden)
    shown = MultivariateNormal(model.mean[~hidden], model.covariance[~hidden][:, ~hidden])
    inferred = MultivariateNormal(mean, covariance).log_prob(patches[:, hidden])
    assert torch.allclose(inferred, -expected - shown.log_prob(patches[:, ~hidden]), atol=1e-6)

    flat, noise = torch.zeros(1, 1, 64, 80), torch.rand(1, 1, 64, 80) * 2 - 1
    likely, unlikely = model.anomaly_map(flat).max(), model.anomaly_map(noise).min()
    assert likely < model.anomaly_map(x).min() and model.anomaly_map(x).max() < unlikely
    model.score = "typicality"
    assert torch.allclose(model.surprise(x).flatten().double(), (expected - expected.mean()).abs(), atol=0.01)
    assert min(model.anomaly_map(flat).min(), model.anomaly_map(noise).min()) > model.anomaly_map(x).max()


@torch.no_grad()
@pytest.mark.parametrize("score", ["prior", "critic", "residual"])
def test_the_three_maps_of_bigan_are_those_of_its_source_where_a_patch_lies(score):
    model = build("bigan", **{**SMALL["bigan"], "score": score, "shrink": 1, "smoothing": 0.0, "alpha": 0.3}).eval()
    s = stripes(32, 32)
    z = model.E(s)
    answer, features = model.D(s, z)
    again = model.G(z)
    unlike = (model.D(again, z)[1] - features).square().mean().sqrt()
    expected = {
        "prior": -torch.distributions.Normal(0, 1).log_prob(z).sum().expand(1, 1, 32, 32),
        "critic": (1 - answer.sigmoid()).expand(1, 1, 32, 32),
        "residual": 0.7 * (again - s).abs() + 0.3 * unlike,
    }
    assert z.shape == (1, 6, 1, 1)
    assert torch.allclose(model.anomaly_map(s), expected[score], atol=1e-3)


@torch.no_grad()
def test_pca_leaves_of_every_patch_what_scikit_learn_leaves():
    torch.manual_seed(0)
    model, x = build("pca", **SMALL["pca apart"]), stripes(64, 80)
    model.settle([x])
    patches = unfold(x, 8, stride=8)[0].T.numpy()  # (M, 64)
    reference = decomposition.PCA(model.code, svd_solver="full").fit(patches)
    left = torch.from_numpy(patches - reference.inverse_transform(reference.transform(patches))).abs().T[None]
    assert torch.allclose(model.anomaly_map(x), fold(left, (64, 80), 8, stride=8), atol=1e-3)


@torch.no_grad()
def test_the_maps_of_vae_and_vae_gan_are_those_of_the_mean_code():
    plain = {**AE, "shrink": 1, "smoothing": 0.0}
    vae, s = build("vae", **plain).eval(), stripes(64, 80)
    mean, log_variance = vae.G(vae.posterior(s).mean).chunk(2, 1)
    variance = 1e-4 + log_variance.exp()
    expected = ((s - mean).square() / variance + (2 * math.pi * variance).log()) / 2
    assert torch.allclose(vae.anomaly_map(s), expected, atol=1e-4)
    vae_gan = build("vae_gan", **plain, residual="l2").eval()
    again = vae_gan.G(vae_gan.E(s)[:, : vae_gan.code])
    unlike = (vae_gan.D(again)[1] - vae_gan.D(s)[1]).norm(dim=1, keepdim=True)
    assert torch.allclose(vae_gan.anomaly_map(s), interpolate(unlike, scale_factor=4.0, mode="bilinear"), atol=1e-4)


def test_bigan_refuses_the_likelihood_under_a_uniform_prior():
    with pytest.raises(ValueError, match="under a uniform prior all codes are as likely"):
        build("bigan", prior="uniform", score="prior")


@torch.no_grad()
def test_ganomaly_scores_by_the_code_alone_as_its_source_does_with_alpha_1():
    model = settled("ganomaly")
    x = stripes(96, 128, phase=1.0)
    parts = model.parts(x)
    z, code = parts["code"], parts["code_residual"]
    model.alpha = 1.0
    assert torch.equal(model.anomaly_map(x), code)
    gap = (z - model.F(model.G(z))).abs().mean() / model.scale[1]
    assert float(code.mean()) == pytest.approx(float(gap), rel=0.05)
    assert float(parts["residual"].mean()) == pytest.approx(1, rel=0.5)  # in units of its mean on normal images


def test_every_model_tells_of_itself_in_words_of_its_own():
    assert all("about" in vars(kind) for kind in MODELS.values())
    lines = [kind.about.line for kind in MODELS.values()]
    assert len(set(lines)) == len(lines)


@torch.no_grad()
def test_the_source_gives_one_code_and_one_answer_per_patch():
    model = build("fcbigan_source").eval()
    s = torch.rand(2, 1, 32, 32) * 2 - 1
    code = model.E(s)
    assert code.shape == (2, 128, 1, 1)
    assert model.G(code).shape == s.shape
    assert model.D(s, code).shape == (2, 1, 1, 1)
    expected = 0.5 * (model.D(s, code) - 1).square() + 0.5 * (model.G(code) - s).abs()
    assert torch.allclose(model.anomaly_map(s), expected, atol=1e-4)


def test_reconstruction_penalty_of_the_encoder_alone_leaves_the_generator_unmoved():
    model = build("fcbigan_source", **SMALL["fcbigan_source"], penalised="encoder", adversarial=0.0)
    batch = batches_of(model)
    for who, terms in model.play((batch(n) for n in range(9)), 0.0):
        if who == "autoencoder":
            grads = torch.autograd.grad(terms["rec"], list(model.G.parameters()), allow_unused=True)
            assert all(g is None for g in grads)
            assert torch.autograd.grad(terms["rec"], model.E[0][0].weight, retain_graph=False)


@torch.no_grad()
def test_sparse_coding_gives_every_pixel_the_mean_over_the_patches_that_cover_it():
    torch.manual_seed(0)
    model = build("sparse_coding", **{**DICTIONARY, "step": 1, "shrink": 1})
    model.settle([stripes(64, 80)])
    x = stripes(20, 24)
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    for top in range(20 - 7):
        for left in range(24 - 7):
            here = (..., slice(top, top + 8), slice(left, left + 8))
            total[here] += model.surprise(x[here].reshape(1, -1))
            count[here] += 1
    assert torch.allclose(model.anomaly_map(x), total / count, rtol=1e-3)
