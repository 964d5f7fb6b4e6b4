"""Laws of naming defects: the head says what was learnt, knows what it does not know, and changes no verdict."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bundle_fuzz
import bundles
import cv2
import numpy as np
import onnx
import pytest
from bundle_fuzz import FROZEN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_imports import BAN

from anomalib_gan.records.access import User
from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.records.naming import LEAST, RATE, Fitted, features, fit, left_out, store
from anomalib_gan.records.scoring import score_folder
from anomalib_gan.records.shift import evidence
from anomalib_gan.runtime import Inspector, bundle
from anomalib_gan.runtime.bundle import BundleError, Manifest, attach, fingerprint, load
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.naming import FEATURES, UNKNOWN, Codes, Types, read_types
from anomalib_gan.runtime.tiling import Box
from pipelines.types import learn_types, remove_types

ANN = User("Ann", "operator")
ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data_samples/test/dust/000.png"
KINDS = ("dot", "hole", "stripes")


def drawn(kinds: tuple[str, ...], seed: int) -> np.ndarray:
    """A grey image, 64 x 96, with one defect of each kind, side by side."""
    rng = np.random.default_rng(seed)
    image = 128 + rng.normal(0, 3, (64, 96))
    for place, kind in enumerate(kinds):
        top, side = rng.integers(4, 36), rng.integers(14, 22)
        left = 96 * place // len(kinds) + rng.integers(2, 8)
        spot = image[top : top + side, left : left + side]
        if kind == "stripes":
            spot += np.where(np.arange(spot.shape[0])[:, None] // 2 % 2, 70, -70)
        else:
            spot += (80 if kind == "dot" else -80) + rng.normal(0, 5)
    return np.clip(image, 0, 255).astype(np.uint8)


def new_bundle(path: Path) -> Path:
    """A detector that finds the drawn defects, and whose code sees what they are like."""
    model, parts = bundles.seeing()
    calibration = Calibration.fit([0.02] * 30, [0.1] * 30, model=bundles.HASH)
    one = bundles.manifest(calibration=calibration, halo=8, map_scale=(0.0, 0.05), pixel_size=None)
    bundle.write(path, one, {"model.onnx": model.SerializeToString(), "parts.onnx": parts.SerializeToString()})
    return path


class Line:
    """A folder of images with two kinds of defects, scored and reviewed."""

    def __init__(self, root: Path) -> None:
        self.bundle, self.images, self.db = new_bundle(root / "x.bundle"), root / "images", root / "out/results.db"
        self.images.mkdir()
        for number in range(LEAST + 2):
            for place, kind in enumerate(KINDS[:2]):
                cv2.imwrite(str(self.images / f"{kind}{number:02}.png"), drawn((kind,), 2 * number + place))
        cv2.imwrite(str(self.images / "stripes.png"), drawn(("stripes",), 5))
        cv2.imwrite(str(self.images / "none.png"), drawn((), 6))
        self.score()
        with Archive(self.db) as archive:
            for row in archive.rows(Filter(verdicts=("review", "reject"))):
                if not row.path.startswith("stripes"):
                    archive.review(row, ANN, "confirmed", defect_type=row.path[:-6])

    def score(self) -> None:
        score_folder(Inspector.load(self.bundle, "cpu"), self.images, self.db.parent)

    def types(self) -> dict[str, list[str]]:
        """What the database says of each image's defects."""
        with Archive(self.db) as archive:
            return {row.path: [one.type for one in archive.inspection(row.id).defects] for row in archive.rows()}


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return Line(tmp_path_factory.mktemp("line"))


@pytest.fixture
def line(scored: Line, tmp_path: Path) -> Line:
    """A copy to change; the images lie where they were."""
    copy = object.__new__(Line)
    root = scored.bundle.parent
    shutil.copytree(root / "x.bundle", tmp_path / "x.bundle")
    shutil.copytree(root / "out", tmp_path / "out")
    copy.bundle, copy.images, copy.db = tmp_path / "x.bundle", scored.images, tmp_path / "out/results.db"
    return copy


@pytest.fixture(scope="module")
def fitted(scored: Line) -> Fitted:
    with Archive(scored.db) as archive:
        labels, left = archive.labelled()
    x, kept, unread = features(scored.bundle, labels)
    assert not left and not unread and len(kept) == 2 * (LEAST + 2)
    return fit(x, [one.type for one in kept], [one.sha256 for one in kept], bundle.read_manifest(scored.bundle))


@pytest.fixture
def named(line: Line, fitted: Fitted) -> Path:
    """A bundle with a head."""
    store(line.bundle, fitted)
    return line.bundle


# --- what is learnt ------------------------------------------------------------------------------------------------


def test_two_kinds_are_named_a_third_is_unknown_and_no_verdict_changes(line: Line, fitted: Fitted) -> None:
    plain = Inspector.load(line.bundle, "cpu")
    store(line.bundle, fitted)
    inspector = Inspector.load(line.bundle, "cpu")
    assert fitted.types.accuracy > 0.9 and fitted.tells
    right = 0
    for seed in range(20):
        image = drawn(KINDS, 5000 + seed)
        found, before = inspector(image), plain(image)
        assert (found.verdict, found.score, found.defect_count) == (before.verdict, before.score, before.defect_count)
        np.testing.assert_array_equal(found.map, before.map)
        assert [replace(one, type="") for one in found.defects] == list(before.defects)
        left_to_right = sorted(found.defects, key=lambda one: one.col)
        dot, hole, *rest = [one.type for one in left_to_right]
        assert rest and set(rest) == {UNKNOWN} and {dot, hole} <= {"dot", "hole", UNKNOWN}
        right += (dot == "dot") + (hole == "hole")
        assert "types" in found.timing and "types" not in before.timing
    assert right >= 32  # each of the 40 may be called unknown with a probability of about a tenth


def test_on_shuffled_labels_the_accuracy_is_that_of_chance_and_the_head_is_refused(fitted: Fitted) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 9)).astype(np.float32)
    real = ["a" if one[0] > 0 else "b" for one in x]
    images = [str(k // 2) for k in range(120)]
    assert fit(x, real, images, bundles.manifest()).types.accuracy > 0.85
    found = [fit(x, list(rng.permutation(real)), images, bundles.manifest()) for _ in range(8)]
    assert abs(np.mean([one.types.accuracy for one in found]) - 0.5) < 0.1
    assert sum(one.tells for one in found) <= 2


def test_the_accuracy_does_not_profit_from_other_defects_of_the_same_image() -> None:
    rng = np.random.default_rng(1)
    images = [str(k // 6) for k in range(120)]
    types = [str(int(image) % 2) for image in images]  # nothing in the features tells of it, but for the image
    x = (rng.normal(size=(20, 12))[[int(image) for image in images]] + 0.01 * rng.normal(size=(120, 12))).astype("f4")
    assert fit(x, types, images, bundles.manifest()).types.accuracy < 0.8
    assert fit(x, types, [str(k) for k in range(120)], bundles.manifest()).types.accuracy > 0.95


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 5), st.integers(LEAST, 40), st.integers(0, 2**16))
def test_each_test_for_unknown_fails_no_more_labels_than_its_rate_and_the_table_holds_them_all(
    kinds: int, each: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    types = [f"kind {k % kinds}" for k in range(kinds * each)]
    x = np.stack([rng.normal(size=6) + 1.5 * np.eye(6)[k % kinds] for k in range(kinds * each)]).astype(np.float32)
    found = fit(x, types, [str(k) for k in range(len(types))], bundles.manifest()).types
    confusion = np.array(found.confusion)
    assert confusion.sum(1).tolist() == list(found.labels) == [each] * kinds
    assert confusion[:, -1].sum() <= 2 * int(RATE * (len(types) + 1))
    assert np.trace(confusion) <= round(found.accuracy * len(types))
    assert Types.decode(found.encode()) == found


def test_a_type_that_a_fold_does_not_know_is_never_what_it_says() -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.array([0] * 20 + [2] * 20)
    probabilities, distances = left_out(x, y, np.arange(40), 3, 4)
    assert (probabilities[:, 1] == 0).all() and np.isinf(distances[:, 1]).all()
    assert np.isfinite(distances.min(1)).all()
    with pytest.raises(ValueError, match="label defects in more images"):
        left_out(x, y, y, 3, 2)


def test_too_few_labels_are_counted_and_the_others_are_learnt_without_them() -> None:
    rng = np.random.default_rng(0)
    types = ["a"] * 12 + ["b"] * 9 + ["c"] * 3
    x, images = rng.normal(size=(24, 3)).astype(np.float32), [str(k) for k in range(24)]
    with pytest.raises(ValueError, match=r"there is 1: 'b' has 9 of 10 labels; 'c' has 3 of 10"):
        fit(x, types, images, bundles.manifest())
    with pytest.raises(ValueError, match="give some defects a type first"):
        fit(x[:0], [], [], bundles.manifest())
    x, types, images = np.concatenate([x, x[:1]]), [*types, "b"], [*images, "24"]
    assert fit(x, types, images, bundles.manifest()).types.names == ("a", "b")
    with pytest.raises(ValueError, match="'b' was labelled in one image only"):
        fit(x, types, ["one" if kind == "b" else image for kind, image in zip(types, images, strict=True)],
            bundles.manifest())  # fmt: skip


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'anomalib_gan\[train\]'"):
        fit(np.zeros((0, 1), np.float32), [], [], bundles.manifest())


# --- what the code says under a box --------------------------------------------------------------------------------


def test_features_are_those_of_the_whole_image_however_it_is_cut() -> None:
    found = load(FROZEN)
    codes, step = Codes(found), found.manifest.stride
    boxes = [Box(0, 0, 1, 1), Box(100, 130, 140, 180), Box(3, 5, 384, 512), Box(383, 511, 384, 512), Box(90, 8, 260, 9)]
    with open_image(SAMPLE) as picture:
        image = picture.rows(0, 384).transpose(2, 0, 1)[None].astype(np.float32)
        whole = codes._run(image=image, white=np.array(255, np.float32))
        fields = [np.asarray(whole["code"][0])]
        for name in ("critic", "residual", "likelihood"):
            fields.append(np.stack([[tile.mean() for tile in np.split(band, 512 // step, 1)]
                                    for band in np.split(whole[name][0, 0], 384 // step)])[None])  # fmt: skip
        seen = np.concatenate(fields)
        for tile in (64, 128, 1024):
            given = Inspector.load(FROZEN, "cpu", tile=tile).features(codes, picture, boxes)
            assert given.shape == (len(boxes), codes.features) == (len(boxes), len(whole["code"][0]) + 2 * 3 + 2)
            for (top, left, bottom, right), row in zip(boxes, given, strict=True):
                part = seen[:, top // step : -(-bottom // step), left // step : -(-right // step)]
                sides = np.log2([bottom - top, right - left])
                wanted = np.concatenate([part.mean((1, 2)), part[-3:].max((1, 2)), sides])
                np.testing.assert_allclose(row, wanted, atol=1e-4 * np.ptp(seen))
        with pytest.raises(ValueError, match="does not lie in its 384 x 512 pixels"):
            Inspector.load(FROZEN, "cpu").features(codes, picture, [Box(0, 0, 385, 5)])


def test_an_image_that_is_resampled_is_looked_at_in_the_scale_of_its_map(tmp_path: Path) -> None:
    one = load(new_bundle(tmp_path / "x.bundle"))
    bundle.write(
        tmp_path / "y.bundle", replace(one.manifest, pixel_size=1.0), {n: one.read(n) for n in one.manifest.files}
    )
    inspector = Inspector.load(tmp_path / "y.bundle", "cpu", rescale=True)
    small = drawn(("dot",), 3)
    large = cv2.resize(small, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    codes, found = Codes(load(tmp_path / "y.bundle")), []
    for image, size in ((small, 1.0), (large, 0.5)):
        with open_image(image) as picture:
            picture.pixel_size = size
            factor = image.shape[0] // 64
            found.append(inspector.features(codes, picture, [Box(*(factor * side for side in (8, 8, 30, 30)))]))
    np.testing.assert_allclose(*found, atol=0.02)
    assert found[0][0, -1] == np.float32(np.log2(22))


def test_a_bundle_without_parts_or_with_a_code_of_another_spacing_cannot_name(tmp_path: Path) -> None:
    bare = bundles.write(tmp_path / "bare.bundle", bundles.mean_of_nine())
    with pytest.raises(BundleError, match=r"no parts\.onnx.*--parts"):
        Codes(load(bare))
    model, parts = bundles.seeing()
    parts.graph.node[-1].CopyFrom(bundles.node("AveragePool", "seen", "code", kernel_shape=[2, 2], strides=[2, 2]))
    files = {"model.onnx": model.SerializeToString(), "parts.onnx": parts.SerializeToString()}
    bundle.write(tmp_path / "fine.bundle", bundles.manifest(), files)
    with pytest.raises(BundleError, match="no place for every 4 px"):
        Codes(load(tmp_path / "fine.bundle"))


# --- the bundle ----------------------------------------------------------------------------------------------------


def test_a_head_changes_the_fingerprint_alone_and_without_it_the_bundle_is_what_it_was(
    line: Line, fitted: Fitted
) -> None:
    before, old = bundle_fuzz.read(line.bundle), load(line.bundle).manifest
    new = store(line.bundle, fitted)
    assert fingerprint(new) != fingerprint(old) and replace(new, files=old.files) == old
    assert read_types(load(line.bundle, expect_sha256=fingerprint(new))) == fitted.types
    frozen = json.loads((FROZEN / "manifest.json").read_text())
    written = json.loads((line.bundle / "manifest.json").read_text())
    assert set(written) == set(frozen) and written["schema"] == 1, "readers of version 1 would refuse the bundle"
    calibrated = bundle.recalibrate(line.bundle, Calibration.fit([1.0], [1.0], model=old.hash))
    assert fingerprint(calibrated) == fingerprint(new)
    bundle.recalibrate(line.bundle, old.calibration)
    assert store(line.bundle, None) == store(line.bundle, None) == old
    assert {name: data for name, data in bundle_fuzz.read(line.bundle).items() if name != ".lock"} == before
    assert read_types(load(line.bundle)) is None and Inspector.load(line.bundle, "cpu").naming is None


@pytest.mark.parametrize("head", ["none before", "one before"])
def test_a_bundle_loads_wherever_an_exchange_of_its_head_ends(
    head: str, line: Line, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(fitted, types=replace(fitted.types, distance=1.0))
    if head == "one before":
        store(line.bundle, fitted)
    real: Callable[..., None] = bundle.write_bytes
    old, seen = read_types(load(line.bundle)), []
    for steps in range(6):
        left = steps

        def write(path: Path, data: bytes) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError("the power is gone")
            real(path, data)

        monkeypatch.setattr(bundle, "write_bytes", write)
        try:
            store(line.bundle, other)
        except OSError:
            seen.append(read_types(load(line.bundle)))
            Inspector.load(line.bundle, "cpu")(drawn(KINDS, 1))
        monkeypatch.setattr(bundle, "write_bytes", real)
        done = read_types(load(line.bundle))
        store(line.bundle, None if head == "none before" else fitted)
    assert done == other.types and 3 <= len(seen) <= 4 and all(one in (old, None) for one in seen)


def test_a_damaged_head_is_refused(named: Path) -> None:
    for name in ("types.onnx", "types.json"):
        good = (named / name).read_bytes()
        (named / name).write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        with pytest.raises(BundleError, match=f"{name} is damaged"):
            Inspector.load(named, "cpu")
        (named / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing"):
            Inspector.load(named, "cpu")
        (named / name).write_bytes(good)
    assert Inspector.load(named, "cpu").naming


def forged(change: Callable[[onnx.ModelProto], None]) -> Callable[[bytes], bytes]:
    def forge(data: bytes) -> bytes:
        model = onnx.ModelProto.FromString(data)
        change(model)
        return model.SerializeToString()

    return forge


def narrower(model: onnx.ModelProto) -> None:
    """For a bundle with another code."""
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 6
    cuts = dict.fromkeys(("mean", "spread", "weights"), np.s_[:6]) | {
        "whitening": np.s_[:6, :6],
        "centres": np.s_[:, :6],
    }
    for one in model.graph.initializer:
        array = onnx.numpy_helper.to_array(one)
        one.CopyFrom(onnx.numpy_helper.from_array(array[cuts.get(one.name, np.s_[:])].copy(), one.name))


FORGED = {
    "operator": (forged(lambda m: setattr(m.graph.node[4], "op_type", "Loop")), r"types\.onnx.*'Loop': this operator"),
    "outputs": (forged(lambda m: setattr(m.graph.output[0], "name", "x")), r"types\.onnx: has the outputs \['x'"),
    "inputs": (forged(lambda m: setattr(m.graph.input[0], "name", "image")), r"types\.onnx: has the inputs"),
    "image": (forged(lambda m: m.graph.input[0].type.tensor_type.shape.dim.add()), "'features' has the size"),
    "features": (forged(narrower), r"of 6 features, where the bundle has 7 of them and 2 types: name its types again"),
    "no graph": (lambda _: b"types", "is no ONNX file"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_head_is_refused_when_the_bundle_is_loaded(case: str, named: Path) -> None:
    forge, told = FORGED[case]
    attach(named, {"types.onnx": forge((named / "types.onnx").read_bytes())})
    with pytest.raises(BundleError, match=told) as error:
        Inspector.load(named, "cpu")
    assert "\n" not in str(error.value) and len(str(error.value)) < 2000


WRONG: list[tuple[str, Any, str]] = [
    ("names", ["dot"], "2 to 64 different names"),
    ("names", ["dot", "dot"], "different names"),
    ("names", ["dot", "unknown"], "names of types"),
    ("names", ["dot", " hole"], "names of types"),
    ("names", ["dot", "a\nb"], "names of types"),
    ("names", ["dot", "x" * 65], "names of types"),
    ("names", {"dot": 1, "hole": 2}, "names of types"),
    ("labels", [12], "2 whole numbers"),
    ("labels", [12, 0], "above 0"),
    ("labels", [12, 12.0], "whole numbers"),
    ("accuracy", 1.5, "between 0 and 1"),
    ("accuracy", "1", "a finite number"),
    ("confusion", [[12, 0, 0]], "2 rows"),
    ("confusion", [[12, 0, 0], [0, 12]], "rows of 3 whole numbers"),
    ("confusion", [[12, 0, 0], [0, 13, 0]], "make up the labels"),
    ("confusion", [[13, -1, 0], [0, 12, 0]], "rows of 3 whole numbers"),
    ("folds", 1, "from 2 to 24"),
    ("probability", -0.1, "between 0 and 1"),
    ("distance", 0, "above 0"),
    ("rate", None, "a finite number"),
    ("model", "ab", "SHA-256"),
    ("model", "0" * 64, "belongs to model 000000000000"),
    ("created", "today", "ISO 8601"),
    ("features", list(FEATURES[:-1]), "log2 width: another version"),
    ("features", [*FEATURES[:-1], []], "log2 width: another version"),
    ("features", list(FEATURES[::-1]), "log2 width: another version"),
    ("format", 2, "format 2, this version reads 1: upgrade"),
    ("format", "1", "'format' is '1'"),
    ("colour", 1, "unknown: ['colour']"),
]


@pytest.mark.parametrize(("entry", "value", "told"), WRONG)
def test_every_wrong_entry_of_types_json_is_named(entry: str, value: Any, told: str, named: Path) -> None:
    good = json.loads((named / "types.json").read_text())
    attach(named, {"types.json": json.dumps(good | {entry: value}).encode()})
    with pytest.raises(BundleError) as error:
        Inspector.load(named, "cpu")
    assert "types.json" in str(error.value) and told in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("entry", [*Types.__dataclass_fields__, "format"])
def test_a_missing_entry_of_types_json_is_named(entry: str, fitted: Fitted) -> None:
    value = json.loads(fitted.types.encode())
    del value[entry]
    with pytest.raises(BundleError, match=entry):
        Types.decode(json.dumps(value).encode())


@pytest.mark.parametrize("name", ["types.onnx", "types.json"])
def test_half_a_head_is_refused(name: str, named: Path) -> None:
    attach(named, {name: None})
    with pytest.raises(BundleError, match=f"{name} is missing beside what belongs to it"):
        Inspector.load(named, "cpu")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_else_may_stand_in_types_json_is_refused_or_read(fitted: Fitted, data: st.DataObject) -> None:
    value = json.loads(fitted.types.encode())
    value[data.draw(st.sampled_from([*value, "more"]))] = data.draw(json_values)
    try:
        found = Types.decode(json.dumps(value).encode())
    except BundleError as error:
        assert "\n" not in str(error)
    else:
        assert Types.decode(found.encode()) == found


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_head_whose_bytes_were_changed_is_refused_or_still_gives_names(
    named: Path, fitted: Fitted, data: st.DataObject
) -> None:
    forged = bytearray(fitted.graph)
    for _ in range(data.draw(st.integers(1, 3))):
        forged[data.draw(st.integers(0, len(forged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    attach(named, {"types.onnx": bytes(forged)})
    with suppress(BundleError):
        found = Inspector.load(named, "cpu", threads=1)(drawn(KINDS, 1))
        assert {one.type for one in found.defects} <= {"dot", "hole", UNKNOWN}


def test_without_torch_and_scikit_learn_defects_are_named(named: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "x.png"), drawn(("hole",), 77))
    program = f"""{BAN}
from anomalib_gan.runtime import Inspector
print([one.type for one in Inspector.load(sys.argv[1], "cpu")(sys.argv[2]).defects])
assert not set(sys.modules) & {{"torch", "sklearn"}}
"""
    command = [sys.executable, "-c", program, str(named), str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "['hole']\n", done.stderr


# --- labels --------------------------------------------------------------------------------------------------------


def test_a_label_belongs_to_the_drawn_box_or_to_the_largest_defect_and_the_last_word_counts(line: Line) -> None:
    bob = User("Bob", "operator")
    with Archive(line.db) as archive:
        for review in archive.reviews():
            archive.withdraw(review.id, User("Ena", "engineer"))
        assert archive.labelled() == ([], {}) and archive.defect_types() == {}
        first, second, third, fourth = [row for row in archive.rows(Filter(text="dot"))][:4]
        (empty,) = archive.rows(Filter(text="none"))
        archive.review(first, ANN, "confirmed", defect_type="dust")
        archive.review(first, ANN, "confirmed", defect_type=" dot\t")
        archive.review(first, bob, "confirmed", defect_type="dot")
        archive.review(first, ANN, "missed defect", boxes=[(1, 2, 5, 9)], defect_type="scratch")
        archive.review(second, ANN, "confirmed", defect_type="dot")
        archive.review(second, bob, "confirmed", defect_type="hole")
        archive.review(third, ANN, "confirmed", defect_type="dot")
        archive.review(third, ANN, "false alarm")
        archive.review(fourth, ANN, "confirmed")
        archive.ask(empty, ANN)
        archive.review(replace_verdict(empty, "review"), ANN, "confirmed", defect_type="dot")
        found, left = archive.labelled()
        row = archive.inspection(first.id)
        box = max(row.defects, key=lambda one: one.area)
        wanted = {("dot", Box(box.top, box.left, box.bottom, box.right)), ("scratch", Box(1, 2, 5, 9))}
        assert {(one.type, one.box) for one in found} == wanted and len(found) == 2
        assert {one.path for one in found} == {line.images / first.path}
        assert left == {"people disagree on the type": 1, "no box was drawn and no defect found": 1}
        assert list(archive.defect_types()) == ["dot", "dust", "hole", "scratch"]


def replace_verdict(row: Any, verdict: str) -> Any:
    row.verdict = verdict
    return row


@pytest.mark.parametrize(
    ("label", "verdict", "kind", "told"),
    [
        ("false alarm", "reject", "dot", "so there is none of type 'dot': clear it"),
        ("confirmed", "accept", "dot", "so there is none of type 'dot': clear it"),
        ("confirmed", "reject", "x" * 65, "at most 64 characters"),
        ("confirmed", "reject", "a\x00b", "in one line"),
        ("confirmed", "reject", "a\u202eb", "in one line"),
        ("confirmed", "reject", "Unknown", "leave the type empty"),
    ],
)
def test_a_type_that_is_none_or_of_no_defect_is_refused(
    label: Any, verdict: str, kind: str, told: str, line: Line
) -> None:
    with Archive(line.db) as archive:
        row = replace_verdict(next(archive.rows(Filter(text="dot"))), verdict)
        before = len(archive.reviews())
        with pytest.raises(ValueError, match=told):
            archive.review(row, ANN, label, defect_type=kind)
        assert archive.review(row, ANN, label, defect_type="  ").defect_type is None
        assert len(archive.reviews()) == before + 1


def test_images_that_are_gone_changed_or_end_above_the_box_are_left_out_and_counted(line: Line, tmp_path: Path) -> None:
    with Archive(line.db) as archive:
        labels, _ = archive.labelled()
    copies = [replace(one, path=tmp_path / one.path.name) for one in labels[:4]]
    for one, copy in zip(labels, copies, strict=False):
        shutil.copy(one.path, copy.path)
    copies[0].path.unlink()
    copies[1].path.write_bytes(copies[1].path.read_bytes() + b" ")
    copies[2] = replace(copies[2], settings={"info_bar": 60})
    x, kept, left = features(line.bundle, copies)
    assert kept == [copies[3]] and len(x) == 1
    assert left == {
        "it reaches into the info bar": 1,
        "the file has changed since it was reviewed": 1,
        "the file is gone, or is none that this bundle inspects": 1,
    }


# --- the whole way -------------------------------------------------------------------------------------------------


def test_score_writes_types_into_every_table_and_again_when_the_head_is_another(line: Line, fitted: Fitted) -> None:
    assert {kind for types in line.types().values() for kind in types} == {""}
    store(line.bundle, fitted)
    line.score()
    types = line.types()
    assert types["none.png"] == [] and set(types["stripes.png"]) == {UNKNOWN}
    assert sum(kinds == [path[:-6]] for path, kinds in types.items()) >= 20
    with open(line.db.parent / "defects.csv", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert {(row["path"], row["type"]) for row in rows} == {(path, kind) for path, all in types.items() for kind in all}
    report = (line.db.parent / "report.html").read_text()
    assert "1 dot" in report and f"{len(types['stripes.png'])} unknown" in report
    with Archive(line.db) as archive:
        ids = [row.id for row in archive.rows()]
        (striped,) = archive.rows(Filter(text="stripes"))
        assert "<th>Type</th>" in (page := evidence(archive, striped.id)) and f"<td>{UNKNOWN}</td>" in page
        line.score()
        assert [row.id for row in archive.rows()] == ids, "the same head looked again"
        store(line.bundle, None)
        line.score()
        assert not {kind for kinds in line.types().values() for kind in kinds if kind}
        (striped,) = archive.rows(Filter(text="stripes"))
        assert "<th>Type</th>" not in evidence(archive, striped.id)
        assert archive.reviews(), "reviews hang on the images' bytes"


def test_the_command_tells_what_it_learnt_and_what_is_missing(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> tuple[Console, Callable[[], str]]:
        console = Console(file=io.StringIO(), width=200)
        return console, console.file.getvalue  # type: ignore[attr-defined]

    before = fingerprint(load(line.bundle).manifest)
    with Archive(line.db) as archive:
        row = next(archive.rows(Filter(text="stripes")))
        archive.review(row, ANN, "confirmed", defect_type="stripes")
    console, text = told()
    types = learn_types(line.bundle, line.db, device="cpu", console=console)
    said = " ".join(text().split())
    assert types == read_types(load(line.bundle)) and types.names == ("dot", "hole")
    assert (
        "in 5 folds" in said
        and f"{types.accuracy:.0%} of 24 defects are named right" in said
        and "right for 50%" in said
    )
    assert "'stripes' has 1 of 10 labels" in said and fingerprint(load(line.bundle).manifest) in said
    with Archive(line.db) as archive:
        for review in archive.reviews()[:8]:
            archive.withdraw(review.id, User("Ena", "engineer"))
    kept = bundle_fuzz.read(line.bundle)
    with pytest.raises(ValueError, match="of 10 labels"):
        learn_types(line.bundle, line.db, device="cpu", console=told()[0])
    assert bundle_fuzz.read(line.bundle) == kept
    console, text = told()
    remove_types(line.bundle, console=console)
    assert before in text() and fingerprint(load(line.bundle).manifest) == before


def test_types_that_the_code_does_not_tell_apart_are_not_written(line: Line) -> None:
    with Archive(line.db) as archive:
        rows = list(archive.rows(Filter(verdicts=("review", "reject"), text="dot")))
        for review in archive.reviews():
            archive.withdraw(review.id, User("Ena", "engineer"))
        for number, row in enumerate(rows):
            for place, kind in enumerate(("red", "blue") if number % 2 else ("blue", "red")):
                archive.review(row, ANN, "confirmed", boxes=[(4 * place, 60, 4 * place + 8, 90)], defect_type=kind)
    before = bundle_fuzz.read(line.bundle)
    with pytest.raises(ValueError, match="does not tell these types apart"):
        learn_types(line.bundle, line.db, device="cpu", console=Console(file=io.StringIO()))
    assert bundle_fuzz.read(line.bundle) == before


def test_a_head_belongs_to_one_detector(named: Path, tmp_path: Path) -> None:
    found = load(named)
    other: Manifest = replace(found.manifest, hash="ef" * 32, calibration=None, created=datetime.now(UTC).isoformat())
    bundle.write(tmp_path / "other.bundle", other, {name: found.read(name) for name in found.manifest.files})
    with pytest.raises(BundleError, match="name its types again"):
        Inspector.load(tmp_path / "other.bundle", "cpu")
