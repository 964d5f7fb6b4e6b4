"""Translators from folders to pictures: pairs, batches, `train --to` and `translate`."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_cli import Cli, cli  # noqa: F401
from test_train_cli import interrupted
from test_training import same, texture, write

from anomalib_gan import checkpoint, data, holding
from anomalib_gan.pairs import PairCrops, hold_pairs_out, read_domains
from anomalib_gan.runtime.calibrating import held_back
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import ImageError, open_image
from anomalib_gan.translating import worth
from anomalib_gan.translation import Translator, made_from, translate_folder
from pipelines.train import train

PARAMS = {"width": 4, "patch": 16, "batch": 2}
TRAIN = {"model": "pix2pix", "params": PARAMS, "steps": 4, "device": "cpu"}
NAMES = ("0", "sub/1", "sub/2")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Folders in/ and out/ of paired images, and a run that learnt from them."""
    root = tmp_path_factory.mktemp("translate")
    for i, name in enumerate(NAMES):
        write(root / f"in/{name}.png", texture(i, 40, 72))
        write(root / f"out/{name}.png", 255 - texture(i, 40, 72))
    train(root / "in", to=root / "out", out=root / "run", **TRAIN)
    return root


def translated(run, folder, out, **options):
    translator = Translator.load(run, device="cpu", **options)
    return translate_folder(translator, folder, out, opener=partial(open_image, info_bar=0), settings={"info_bar": 0})


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_partners_are_cut_flipped_and_magnified_together_and_others_each_by_itself():
    x = [torch.from_numpy(texture(i, 40, 72))[None] / 255 for i in range(3)]
    y = [1 - one for one in x]
    options = {"patch": 16, "batch": 32, "channels": 1, "seed": 3, "zoom": 0.4}
    crops = PairCrops(x, y, paired=True, **options)
    for n in range(3):
        pair = crops(n)
        assert pair.x.shape == (32, 1, 16, 16) and torch.allclose(pair.x, -pair.y, atol=1e-5)
        assert same(crops(n), PairCrops(x, y, paired=True, **options)(n)) and not same(crops(n), crops(n + 1))
    assert same(crops.images, x) and same(crops.wanted, y)
    apart = PairCrops(x, x, paired=False, **options)
    pair = apart(0)
    assert same(pair, PairCrops(x, x, paired=False, **options)(0))
    assert not any(torch.equal(a, b) for a, b in zip(pair.x, pair.y, strict=True))


def test_partners_of_other_depth_and_colour_are_brought_to_one_kind():
    grey, colour = torch.full((1, 20, 20), 51, dtype=torch.uint8), torch.full((3, 20, 20), 0.2)
    pair = PairCrops([grey], [colour], 16, 2, paired=True, channels=3)(0)
    for one in pair:
        torch.testing.assert_close(one, torch.full((2, 3, 16, 16), -0.6))


@pytest.mark.parametrize("count", [3, 10])
@pytest.mark.parametrize("paired", [True, False])
def test_what_is_held_back_of_either_side_is_never_trained_on(paired, count):
    def domain(name):
        return [
            data.Normal(Path(f"{name}/{i}.png"), f"{name}{i}", torch.zeros(1, 40, 200, dtype=torch.uint8), 255, None)
            for i in range(count)
        ]

    x, y = domain("x"), domain("y")
    held = hold_pairs_out(x, y, 16, 0, paired=paired)
    assert len(held) == 2 * (3 if count == 3 else 2)
    for images in (x, y):
        boxes = {one.path: one for one in held}
        for image in images:
            if (one := boxes.get(str(image.path.absolute()))) is not None:
                assert one.sha256 == image.sha256
                image.grey[..., one.box[1] if one.box else 0 :] = 255
    if paired:
        here, there = ({Path(one.path).name for one in held if side in one.sha256} for side in "xy")
        assert here == there
    (seen, kept), (aims, more) = holding.regions(x, held), holding.regions(y, held)
    assert all((region == 255).all() for region in (*kept, *more)) and len(kept) == len(more) == len(held) // 2
    crops = PairCrops(seen, aims, 16, 32, paired=paired, channels=1)
    assert all(float(one.max()) == -1 for n in range(8) for one in crops(n))


def test_files_are_partners_by_name_whatever_their_suffix(tmp_path):
    for i, name in enumerate(NAMES):
        write(tmp_path / f"in/{name}.png", texture(i))
        (tmp_path / f"out/{name}.bmp").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"out/{name}.bmp").write_bytes(cv2.imencode(".bmp", 255 - texture(i))[1].tobytes())
    x, y, warnings = read_domains(tmp_path / "in", tmp_path / "out", paired=True, info_bar=0)
    assert warnings == [] and len(x) == 3
    assert all(torch.equal(255 - here.grey, there.grey) for here, there in zip(x, y, strict=True))
    few = 2 * 2 * x[0].grey.numel()  # of a collection that is too large, partners stay together
    x, y, warnings = read_domains(tmp_path / "in", tmp_path / "out", paired=True, info_bar=0, budget=few)
    assert len(x) == len(y) == 2 and "training uses 2 of them" in warnings[0]
    assert all(torch.equal(255 - here.grey, there.grey) for here, there in zip(x, y, strict=True))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"in/a.png": 40, "in/b.png": 40, "out/a.png": 40}, r"in/b\.png has no partner of that name in .*out: add it"),
        ({"in/a.png": 40, "out/a.png": 40, "out/b.png": 40}, r"out/b\.png has no partner of that name in .*in: add it"),
        ({"in/a.png": 40, "out/a.png": 48}, r"in/a\.png has 40x72 px and its partner .*out/a\.png 48x72"),
        ({"in/a.png": 40, "in/a.bmp": 40, "out/a.png": 40}, r"in/a\.bmp and .*in/a\.png have one name"),
        ({"in/a.png": 40}, r"out is not a folder"),
        ({"in/a.png": 40, "out/a.txt": 40}, r"out holds no image"),
    ],
)
def test_a_folder_that_has_no_partner_is_refused_by_name(tmp_path, files, reason):
    for name, height in files.items():
        write(tmp_path / name, texture(0, height, 72))
    with pytest.raises(ImageError, match=reason):
        read_domains(tmp_path / "in", tmp_path / "out", paired=True, info_bar=0)


def test_two_folders_must_lie_apart(tmp_path):
    write(tmp_path / "in/a.png", texture(0))
    write(tmp_path / "in/out/a.png", texture(0))
    for paired in (True, False):
        with pytest.raises(ImageError, match="one folder or lie within each other: give two that are apart"):
            read_domains(tmp_path / "in", tmp_path / "in/out", paired=paired)


# --- train --to -----------------------------------------------------------------------------------------------------


def test_a_training_from_two_folders_says_what_it_learnt_from_and_what_it_is_worth(root, tmp_path, capsys):
    run = train(root / "in", to=root / "out", out=tmp_path / "run", **TRAIN)
    said = capsys.readouterr().out
    assert "3 pairs of images" in said and "held back of them: a strip of 3 images" in said
    assert not list(run.glob(".tmp*")) and not (run / "reconstructions.png").exists()
    picture = cv2.imread(str(run / "translations.png"))
    assert picture.std() > 5 and min(picture.shape[:2]) > 200
    card = read_json(run / "card.json")
    x, y, _ = read_domains(root / "in", root / "out", paired=True)
    assert card["data"]["fingerprint"] == data.fingerprint(x) and card["settings"]["jitter"] == 0
    assert card["data"]["to"]["folder"] == str(root / "out") and card["spec"]["params"]["translator"] is True
    crossed = data.fingerprint(y, [one.sha256 for one in x[::-1]])
    assert card["data"]["to"]["fingerprint"] == data.fingerprint(y, [one.sha256 for one in x]) != crossed
    held = held_back(run)
    assert {one.path.parent.name for one in held} == {"in", "out", "sub"} and len(held) == 6
    _, kept = holding.regions(x, [holding.Held(str(h.path), str(h.sha256), h.box) for h in held])
    model, _ = checkpoint.load_model(run, mapped=False)
    pairs = [(data.signed(one)[None], -data.signed(one)[None]) for one in kept]
    assert worth(model, pairs)["translated"] == pytest.approx(card["translation"]["translated"], rel=1e-4)
    told = card["translation"]["translated"]
    assert f"{told['l1']:.2%} of the range on average, PSNR {told['psnr']:.1f} dB" in said


def test_a_translators_training_that_is_resumed_ends_like_one_left_alone(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            train(root / "in", to=root / "out", out=tmp_path / "x", checkpoint_every=0, **TRAIN)
    assert checkpoint.load(tmp_path / "x")["step"] == 2
    write(tmp_path / "other/a.png", texture(0, 40, 72))
    with pytest.raises(ValueError, match="no partner of that name"):
        train(root / "in", to=tmp_path / "other", out=tmp_path / "x", resume=True)
    swapped = tmp_path / "swapped"
    for name, other in zip(NAMES, (NAMES[0], NAMES[2], NAMES[1]), strict=True):
        write(swapped / f"{name}.png", cv2.imread(str(root / f"out/{other}.png"), cv2.IMREAD_GRAYSCALE))
    with pytest.raises(ValueError, match="swapped are not those the run was started with"):
        train(root / "in", to=swapped, out=tmp_path / "x", resume=True)
    run = train(root / "in", out=tmp_path / "x", resume=True)
    a, b = checkpoint.load(root / "run"), checkpoint.load(run)
    assert all(same(a[key], b[key]) for key in ("step", "model", "ema", "optimisers", "settled"))


def test_what_makes_no_translator_is_one_line_with_the_mend(root, tmp_path, cli: Cli):  # noqa: F811
    base = ("train", root / "in", "--out", tmp_path / "x", "--steps", 1)
    to = ("--to", root / "out")
    for arguments, told in (
        ((*to, "--model", "ae"), "ae is no translator: choose --model cycle_gan or pix2pix"),
        (to, "fcbigan is no translator: choose --model cycle_gan or pix2pix"),
        (("--model", "pix2pix", "--param", "translator=true"), "pix2pix is to translate: give the folder of what"),
        ((*to, "--model", "pix2pix", "--jitter", 0.1), "leave --jitter, --init-from and --add-reviewed out"),
        ((*to, "--model", "pix2pix", "--init-from", root / "run"), "leave --jitter, --init-from and"),
        (("--init-from", root / "run"), "is no detector: it translates images"),
        ((*to, "--model", "pixtwopix"), "no model is called 'pixtwopix'"),
    ):
        assert told in cli.refuses(*base, *arguments)
    assert not (tmp_path / "x").exists()


def test_a_translator_has_no_map_and_every_command_says_so(root, tmp_path, cli: Cli):  # noqa: F811
    run, before = root / "run", sorted((root / "run").iterdir())
    for arguments in (
        ("calibrate", run),
        ("score", run, root / "in", "--out", tmp_path / "x"),
        ("evaluate", run, root),
        ("export", run, "--out", tmp_path / "x"),
        ("diagnose", run),
        ("benchmark", "proxy", run),
    ):
        told = cli.refuses(*arguments)
        assert "the pix2pix in" in told and "is no detector: it translates images" in told, arguments
    assert sorted(run.iterdir()) == before and not (tmp_path / "x").exists()


# --- translate ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_pictures_are_what_the_model_makes_of_the_whole_images_however_they_are_tiled(root, tmp_path):
    model, _ = checkpoint.load_model(root / "run", mapped=False)
    for tile in (16, 1024):
        out = tmp_path / str(tile)
        assert translated(root / "run", root / "in", out, tile=tile).translated == 3
        for i, name in enumerate(NAMES):
            x = torch.from_numpy(texture(i, 40, 72) / 127.5 - 1)[None, None].float()
            expected = (model.translate(x)[0, 0] + 1) * 127.5
            picture = cv2.imread(str(out / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            assert picture.dtype == np.uint8 and picture.shape == (40, 72)
            assert np.abs(picture - expected.numpy()).max() <= 0.501


def test_a_job_that_is_stopped_goes_on_and_makes_nothing_twice(root, tmp_path, monkeypatch, cli: Cli):  # noqa: F811
    folder, out = tmp_path / "in", tmp_path / "out"
    for i in range(4):
        write(folder / f"{i}.png", texture(i, 24, 32))
    command = ("translate", root / "run", folder, "--out", out, "--device", "cpu")
    count, call = 0, Translator.__call__

    def stop(self, picture):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return call(self, picture)

    with monkeypatch.context() as patch:
        patch.setattr(Translator, "__call__", stop)
        code, said, _ = cli(*command)
    assert code == 130 and "2 images translated" in said and "go on where this ended" in said
    made = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(made) == 2
    code, said, _ = cli(*command)
    assert code == 0 and "2 images translated, 2 were there already" in said
    assert all(path.stat().st_mtime_ns == then for path, then in made.items())
    write(folder / "0.png", texture(9, 24, 32))
    code, said, _ = cli(*command)
    assert code == 0 and "1 images translated, 3 were there already" in said
    assert "4 images translated:" in cli(*command, "--info-bar", 4)[1]  # other settings, other pictures
    assert cv2.imread(str(out / "1.png")).shape[:2] == (20, 32)
    assert not list(out.glob(".tmp*"))


def test_bad_images_are_told_and_stop_nothing(root, tmp_path, cli: Cli):  # noqa: F811
    folder, out = tmp_path / "in", tmp_path / "in/out"
    write(folder / "good.png", texture(0, 24, 32))
    write(folder / "mine.png", texture(0, 24, 32))
    write(folder / "small.png", texture(0, 7, 32))
    write(folder / "colour.png", np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8))
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "good.bmp").write_bytes(cv2.imencode(".bmp", texture(1, 24, 32))[1].tobytes())
    write(out / "mine.png", texture(5, 24, 32))  # somebody's own
    own = (out / "mine.png").read_bytes()
    code, said, errors = cli("translate", root / "run", folder, "--out", out, "--device", "cpu")
    assert code == 1 and "1 images translated, 5 failed" in said
    for told in (
        "small.png: image 7x32 is smaller than the model's smallest image, 8x8 px",
        "colour.png: the image has colours but the model was trained on grey images",
        "broken.png: begins with b'no image' and is no TIFF, PNG, JPEG or BMP",
        "mine.png is there and no translation: choose another --out",
        "good.png: its translation would have the name of that of",
    ):
        assert told in errors
    assert (out / "mine.png").read_bytes() == own and sorted(os.listdir(out)) == ["good.png", "mine.png"]


def test_what_cannot_be_translated_at_all_is_one_line(root, tmp_path, cli: Cli):  # noqa: F811
    write(tmp_path / "normal/a.png", texture(0, 64, 96))
    detector = train(tmp_path / "normal", out=tmp_path / "detector", model="gaussian", params={"side": 8})
    (tmp_path / "empty").mkdir()
    for run, folder, out, told in (
        (detector, root / "in", tmp_path / "x", "is no translator: train one with `anomalib-gan train INPUT_DIR --to"),
        (tmp_path / "none", root / "in", tmp_path / "x", "none does not exist: train a model first"),
        (root / "run", tmp_path / "none", tmp_path / "x", "none is not a folder"),
        (root / "run", tmp_path / "empty", tmp_path / "x", "empty holds no image"),
        (root / "run", root / "in", root / "in", "choose another --out"),
    ):
        assert told in cli.refuses("translate", run, folder, "--out", out)
    assert not (tmp_path / "x").exists()


def test_grey_becomes_colour_and_colour_grey(tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (24, 48, 3), np.uint8)
    write(tmp_path / "grey/a.png", texture(0, 24, 48))
    write(tmp_path / "colour/a.png", colour)
    for here, there, shape in (("grey", "colour", (24, 48, 3)), ("colour", "grey", (24, 48))):
        run = train(tmp_path / here, to=tmp_path / there, out=tmp_path / f"{here}-run", **{**TRAIN, "steps": 1})
        assert translated(run, tmp_path / here, tmp_path / f"{here}-out").failed == []
        assert cv2.imread(str(tmp_path / f"{here}-out/a.png"), cv2.IMREAD_UNCHANGED).shape == shape


def test_a_picture_says_what_it_was_made_from_and_others_say_nothing(root, tmp_path):
    translated(root / "run", root / "in", tmp_path)
    origin = made_from(tmp_path / "0.png")
    assert origin == {
        "model": checkpoint.load_model(root / "run", mapped=False)[1]["hash"],
        "input": read_json(root / "run/card.json")["data"]["images"][0]["sha256"],
        "info_bar": 0,
    }
    with open_image(tmp_path / "0.png") as picture:  # and is still a PNG for strict readers
        assert picture.rows(0, 40).shape == (40, 72, 1)
    torn = (tmp_path / "0.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(torn[:60])
    for path in (root / "in/0.png", tmp_path / "none.png", tmp_path / "torn.png", tmp_path):
        assert made_from(path) is None
    assert json.dumps(origin).encode() in torn
