"""VGG-19's features as a loss: which file they come from, what they say, and that they are nobody's parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from test_laws import UPSCALING, batches_of
from torch.nn.functional import conv2d, max_pool2d
from torchvision.models import vgg19

from anomalib_gan import perceptual
from anomalib_gan.checkpoint import load_model
from anomalib_gan.models import build
from anomalib_gan.perceptual import MEAN, RESCALED, SPREAD, cached, depth
from anomalib_gan.runtime.files import read_json
from anomalib_gan.training import Trainer
from pipelines.train import train

LAYER = "2,2"


def weights(layer=LAYER):
    """The part of torchvision's state dict up to a convolution, drawn at random."""
    with torch.device("meta"):
        shapes = {f"features.{name}": one.shape for name, one in vgg19().features[: depth(layer)].state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "vgg19.pth"
    torch.save(weights(), path)
    return path


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """An empty cache of torch's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "hub"


def with_vgg(file, **params):
    torch.manual_seed(0)
    return build("srgan", **{**UPSCALING, "vgg": str(file), "layer": LAYER, **params})


def test_features_are_those_of_the_definition_before_the_activation(file):
    x, given = torch.rand(2, 1, 24, 32) * 2 - 1, weights()
    grey = ((x + 1) / 2).expand(-1, 3, -1, -1)
    f = (grey - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None]
    for index in (0, 2, 5, 7):
        if index == 5:
            f = max_pool2d(f, 2)
        f = conv2d(f, given[f"features.{index}.weight"], given[f"features.{index}.bias"], padding=1)
        expected, f = f, f.relu()
    found = perceptual.perceptual(file, LAYER)(x)
    assert (expected < 0).any() and torch.allclose(found, expected * RESCALED, atol=1e-5)


def test_all_sixteen_convolutions_lie_where_torchvision_has_them():
    with torch.device("meta"):
        features = vgg19().features
    names = [f"{block},{conv}" for block, count in enumerate(perceptual.BLOCKS, 1) for conv in range(1, count + 1)]
    convolutions = [i for i, layer in enumerate(features) if isinstance(layer, torch.nn.Conv2d)]
    assert [depth(name) - 1 for name in names] == convolutions
    assert names[-1] == "5,4"


def test_the_deepest_features_are_read_from_a_whole_state_dict(tmp_path):
    path = tmp_path / "whole.pth"
    torch.save({**weights("5,4"), "classifier.0.weight": torch.zeros(1)}, path)
    phi = perceptual.perceptual(path, "5,4")
    assert phi(torch.zeros(1, 1, 32, 48)).shape == (1, 512, 2, 3)
    perceptual.perceptual.cache_clear()  # 80 MB


def test_content_is_compared_in_vgg_which_is_nobodys_parameter_and_in_no_checkpoint(file):
    model = with_vgg(file)
    phi = perceptual.perceptual(file, LAYER)
    before = copy.deepcopy(phi.state_dict())
    for who, terms in model.play((batches_of(model)(n) for n in range(9)), 1.0):
        if who == "generator":
            x = batches_of(model)(0)
            again = model.reconstruct(x)
            expected = model.content * (phi(again) - phi(x)).square().mean()
            assert terms["content"].item() == pytest.approx(expected.item(), rel=1e-4)
            gradients = torch.autograd.grad(terms["content"], list(model.G.parameters()))
            assert gradients[-1].any()
    trainer = Trainer(model, batches_of(model), 3, seed=0)
    for _ in trainer:
        pass
    assert all(torch.equal(before[key], value) for key, value in phi.state_dict().items())
    ours = build("srgan", **UPSCALING).state_dict()
    assert {key: value.shape for key, value in model.state_dict().items()} == {k: v.shape for k, v in ours.items()}


def test_without_weights_the_critic_compares_and_the_user_is_told(hub):
    model = with_vgg(perceptual.CACHE)
    (told,) = model.prepare()
    assert str(cached()) in told and cached().is_relative_to(hub) and "critic's features" in told
    assert with_vgg("").prepare() == [] and with_vgg(perceptual.CACHE, adversarial=0.0).prepare() == []


def test_weights_in_the_cache_are_found_and_a_training_goes_on_with_what_it_began_with(hub):
    first = with_vgg(perceptual.CACHE)
    first.prepare()
    cached().parent.mkdir(parents=True)
    torch.save(weights(), cached())
    second = with_vgg(perceptual.CACHE)
    assert second.prepare() == [] and second.phi() is not None
    again = with_vgg(perceptual.CACHE)
    again.load_state_dict(first.state_dict())
    assert again.phi() is None
    cached().unlink()
    again.load_state_dict(second.state_dict())
    with pytest.raises(ValueError, match="which are gone: put the file back"):
        again.phi()


def test_a_wrong_file_is_named_with_the_mend_before_anything_is_written(file, tmp_path):
    wrong = {
        "classes.pth": ({"fc.weight": torch.zeros(3)}, "features.0.weight is missing"),
        "small.pth": ({**weights(), "features.2.weight": torch.zeros(3, 3)}, r"features.2.weight is of shape \(3, 3\)"),
        "list.pth": ([1, 2], "features.0.weight is missing"),
    }
    for name, (content, reason) in wrong.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=f"{name}: {reason}.*vgg19-"):
            with_vgg(tmp_path / name).prepare()
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read as weights"):
        with_vgg(tmp_path / "text.pth").prepare()
    with pytest.raises(ValueError, match="VGG-19 has no convolution '6,1': choose one of 1,1 1,2"):
        with_vgg(file, layer="6,1")
    params = {**UPSCALING, "vgg": str(tmp_path / "nowhere.pth")}
    with pytest.raises(ValueError, match=r"nowhere.pth is no file: give the weights of torchvision's vgg19"):
        train("data_samples", out=tmp_path / "run", model="srgan", steps=1, params=params, device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_is_loaded_without_the_weights_it_was_trained_with_and_its_card_tells_what_was_missing(file, tmp_path):
    params = {**UPSCALING, "vgg": str(file), "layer": LAYER}
    run = train("data_samples", out=tmp_path / "run", model="srgan", steps=2, params=params, device="cpu")
    file.unlink()
    loaded, state = load_model(run)
    assert int(loaded.chosen) == 1 and not any("net" in key for key in state["settled"])
    params["vgg"] = perceptual.CACHE
    run = train("data_samples", out=tmp_path / "other", model="srgan", steps=1, params=params, device="cpu")
    assert any("critic's features" in warning for warning in read_json(run / "card.json")["warnings"])
