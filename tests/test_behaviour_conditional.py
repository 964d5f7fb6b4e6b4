"""Several materials at once: what conditional games promise, on points of the plane; labels from folders to maps."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_cli import Cli
from test_training import texture, write
from torch import nn

from anomalib_gan import data
from anomalib_gan.inversion import Inversion, least
from anomalib_gan.model import Labelled, crops
from anomalib_gan.models import MODELS, build
from anomalib_gan.nets import Critic, ProjectionCritic, beside, normalised
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import ImageError
from anomalib_gan.training import Trainer

CODE, HIDDEN, SIGMA = 4, 64, 0.05
CENTRES = torch.tensor([(math.cos(k * math.pi / 2), math.sin(k * math.pi / 2)) for k in range(4)]) * 0.6
CLASSES = ["east", "north", "west", "south"]
SMALL = {"width": 4, "code": 4, "patch": 32, "batch": 4, "shrink": 1, "steps": 2, "smoothing": 1.0}
GAMES = {
    "cgan": {},
    "ac_gan": {"critic": "auxiliary"},
    "ac_gan k_plus_one": {"critic": "k_plus_one"},
    "sn_gan": {"critic_steps": 2},
}


def perceptron(*sizes):
    """Fully connected layers on each pixel, leaky ReLU between them."""
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Conv2d(a, b, 1), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers[:-1])


def points_critic(name, classes):
    def features(channels):
        return nn.Sequential(perceptron(channels, HIDDEN, HIDDEN), nn.LeakyReLU(0.2))

    def head(answers):
        return nn.Conv2d(HIDDEN, answers, 1, bias=False)

    if name == "sn_gan":
        return normalised(ProjectionCritic(features(2), head(1), 2, HIDDEN, classes))
    return Critic(features(2 + classes), head(1)) if name == "cgan" else Critic(features(2), head(1 + classes))


def on_points(game):
    """The model with its own game, but perceptrons as nets and points of the plane as images of one pixel."""
    name = game.partition(" ")[0]

    class Points(MODELS[name]):
        cell = 1

        def nets(self, width):
            return perceptron(self.code, HIDDEN, HIDDEN, 2), points_critic(name, len(self.classes))

    torch.manual_seed(0)
    settings = {"channels": 2, "shrink": 1, "patch": 1, "batch": 256, "smoothing": 0.0, "steps": 40}
    return Points(code=CODE, classes=CLASSES, **settings, **GAMES[game])


def points(n, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (n,), generator=generator)
    return Labelled((CENTRES[y] + SIGMA * torch.randn(n, 2, generator=generator))[..., None, None], y)


@pytest.fixture(scope="module", params=GAMES)
def played(request):
    trainer = Trainer(on_points(request.param), lambda n: points(256, n), 600, seed=0)
    for _ in trainer:
        pass
    x, y = points(64, 999)
    return trainer.finish([Labelled(one[None], k[None]) for one, k in zip(x, y, strict=True)])


@pytest.mark.slow
@torch.no_grad()
def test_the_same_code_with_another_label_gives_that_class(played):
    x, y = points(1000, 1)
    judge = LogisticRegression().fit(x.flatten(1).numpy(), y.numpy())
    torch.manual_seed(2)
    z = torch.randn(500, CODE, 1, 1)
    for k, name in enumerate(CLASSES):
        drawn = played.G(beside(z, played.one_hot(torch.tensor([k])))).flatten(1)
        assert (judge.predict(drawn.numpy()) == k).mean() > 0.95, name
        assert (drawn - CENTRES[k]).norm(dim=1).median() < 4 * SIGMA, name


@pytest.mark.slow
@torch.no_grad()
def test_the_map_infers_the_class_or_goes_by_the_known_one(played):
    x, y = points(48, 3)
    parts = played.parts(x)
    assert (parts["code"][:, -4:].argmax(1).flatten() == y).float().mean() > 0.9
    inferred = played.anomaly_map(x)
    between = played.anomaly_map(torch.zeros(1, 2, 1, 1))
    assert float(between) > inferred.quantile(0.95)
    try:
        played.known = CLASSES[2]
        asked = played.anomaly_map(x)
        assert (played.sample(8, 1, 1).flatten(1) - CENTRES[2]).norm(dim=1).median() < 4 * SIGMA
    finally:
        played.known = None
    assert torch.allclose(asked[y == 2], inferred[y == 2], atol=0.1)
    assert asked[y != 2].min() > inferred[y == 2].median()  # what is normal elsewhere is a defect of this material


def test_a_generator_without_classes_plays_the_game_of_dcgan():
    plain, conditional = (build(name, **SMALL, **given) for name, given in (("dcgan", {}), ("cgan", {"classes": []})))
    conditional.load_state_dict(plain.state_dict())
    found = []
    for model in (plain, conditional):
        torch.manual_seed(0)
        x = torch.rand(4, 1, 32, 32)
        torch.manual_seed(1)
        moves = model.train().play(iter([x]), 0.0)
        found.append(float(next(moves)[1]["adv"].detach()))
    assert found[0] == found[1]


def test_each_patch_takes_the_inversion_that_leaves_the_least():
    def tried(left):
        field = torch.tensor(left)[:, None, None, None]
        return Inversion(field + 10, field + 20, {"residual": field, "feature": 0 * field})

    found = least([tried([1.0, 5.0, 2.0]), tried([3.0, 4.0, 1.0])], {"residual": 1.0, "feature": 1.0})
    assert found.terms["residual"].flatten().tolist() == [1.0, 4.0, 1.0]
    assert found.z.flatten().tolist() == [11.0, 14.0, 11.0] and found.image.flatten().tolist() == [21.0, 24.0, 21.0]


def test_classes_that_cannot_be_are_refused():
    for params, reason in (
        ({"classes": ["a", "a"]}, "do not all differ"),
        ({"classes": ["a", "b"], "known": "c"}, "no class is called 'c': choose one of a, b"),
    ):
        with pytest.raises(ValueError, match=reason):
            build("cgan", **SMALL, **params)
    with pytest.raises(ValueError, match="without labels"):
        next(build("cgan", **SMALL, classes=["a", "b"]).play(iter([torch.zeros(4, 1, 32, 32)]), 0.0))
    with pytest.raises(ValueError, match="no other objective"):
        build("ac_gan", **SMALL, critic="k_plus_one", objective="hinge")


def test_crops_carry_the_label_of_their_image_in_every_share_of_the_batch():
    images = [torch.full((1, 40, 30 + k), 40 * k, dtype=torch.uint8) for k in range(5)]
    labels = [0, 1, 0, 2, 1]
    given = {"jitter": 0.0, "labels": labels}
    x, y = data.Crops(images, 16, 60, **given)(3)
    shown = ((x[:, 0, 0, 0] + 1) * 127.5 / 40).round().long()
    assert torch.equal(y, torch.tensor(labels)[shown]) and set(y.tolist()) == {0, 1, 2}
    assert torch.equal(x, data.Crops(images, 16, 60, jitter=0.0)(3))  # the same batch, and its labels
    parts = [data.Crops(images, 16, 20, share=(rank, 3), **given)(3) for rank in range(3)]
    assert torch.equal(torch.cat([part.y for part in parts]), y) and torch.equal(torch.cat([p.x for p in parts]), x)
    some = next(crops([Labelled(one[None].float(), torch.tensor([k])) for k, one in enumerate(images)], 16, 50))
    assert torch.equal((some.x[:, 0, 0, 0] / 40).long(), some.y)


def test_the_class_of_an_image_is_the_folder_below_the_normal_ones(tmp_path):
    for layout, classes in {
        "train/{}/0.png": ["felt", "steel"],
        "train/good/{}/0.png": ["felt", "steel"],
        "{}/deep/0.png": ["felt", "steel"],
        "train/good/{}.png": ["normal", "normal"],
        "{}.png": ["normal", "normal"],
    }.items():
        root = tmp_path / layout.replace("/", "-").format("x")
        for kind in ("felt", "steel"):
            write(root / layout.format(kind), texture(0, 16, 16))
        if layout.startswith("train"):
            write(root / "test/steel/0.png", texture(1, 16, 16))
        assert data.classes_of(root, data.normal_files(root)) == classes
    write(tmp_path / "mixed/felt/0.png", texture(0, 16, 16))
    write(tmp_path / "mixed/1.png", texture(0, 16, 16))
    with pytest.raises(ImageError, match=r"1\.png lies beside the class folders"):
        data.classes_of(tmp_path / "mixed", data.normal_files(tmp_path / "mixed"))


def test_the_same_images_in_other_classes_are_other_data(tmp_path):
    for i in range(2):
        write(tmp_path / f"{i}.png", texture(i, 16, 16))
    images, _ = data.read_normals(data.normal_files(tmp_path), info_bar=0)
    one, other = data.fingerprint(images, ["a", "b"]), data.fingerprint(images, ["b", "a"])
    assert len({one, other, data.fingerprint(images)}) == 3
    assert one == data.fingerprint(images[::-1], ["b", "a"])
    with pytest.raises(ValueError, match="'b', and the classes are a, c"):
        data.grouped(images, ["a", "b"], ["a", "c"])
    with pytest.raises(ValueError, match="no image of class 'c'"):
        data.grouped(images, ["a", "b"], ["a", "b", "c"])


@pytest.fixture
def told(monkeypatch, capsys):
    return Cli(monkeypatch, capsys)


def test_class_folders_from_training_to_scores(told, tmp_path):
    root, run = tmp_path / "set", tmp_path / "run"
    for kind, count, level in (("felt", 9, 60), ("steel", 2, 190)):
        for i in range(count):
            write(root / f"train/{kind}/{i}.png", texture(10 * level + i, 64, 96, level=level))
    write(root / "test/good/0.png", texture(1, 64, 96, level=60))
    small = [word for key, value in SMALL.items() for word in ("--param", f"{key}={value}")]
    code, said, errors = told("train", root, "--out", run, "--model", "cgan", "--steps", 3, *small)
    assert code == 0, errors
    assert "classes: felt (9), steel (2)" in said
    card = read_card(run)
    assert card["spec"]["params"]["classes"] == ["felt", "steel"] and card["data"]["classes"] == {"felt": 9, "steel": 2}
    held = [Path(one["path"]).parent.name for one in read_json(run / "split.json")["held"]]
    assert held == ["felt", "felt", "steel", "steel"]  # of many images some, of few a strip of each: of every class

    for chosen in ([], ["--class", "steel"]):
        assert told("calibrate", run, *chosen)[0] == 0
        code, _, errors = told("score", run, root / "test", "--out", tmp_path / f"found{len(chosen)}", *chosen)
        assert code in (0, 1), errors
    assert "calibration belongs to model" in told("score", run, root / "test", "--out", tmp_path / "x")[2]
    assert "no class is called 'wool': choose one of felt, steel" in told("calibrate", run, "--class", "wool")[2]

    plain = tmp_path / "plain"  # a model that knows no classes trains on all of them
    told("train", root, "--out", plain, "--model", "dcgan", "--steps", 1, *small)
    assert len(read_card(plain)["data"]["images"]) == 11 and "classes" not in read_card(plain)["data"]
    assert "which knows no classes: leave --class felt out" in told("calibrate", plain, "--class", "felt")[2]
    chosen = ["--param", "classes=" + json.dumps(["steel", "felt"])]
    told("train", root, "--out", tmp_path / "sn", "--model", "sn_gan", "--steps", 1, *small, *chosen)
    assert read_card(tmp_path / "sn")["spec"]["params"]["classes"] == ["steel", "felt"]


def test_without_class_folders_there_is_one_class(told, tmp_path):
    for i in range(2):
        write(tmp_path / f"normal/{i}.png", texture(i, 64, 64))
    small = [word for key, value in SMALL.items() for word in ("--param", f"{key}={value}")]
    assert (
        told("train", tmp_path / "normal", "--out", tmp_path / "run", "--model", "ac_gan", "--steps", 1, *small)[0] == 0
    )
    assert read_card(tmp_path / "run")["spec"]["params"]["classes"] == ["normal"]
