"""Laws of bundles: what is written is read again, what was touched is refused, no graph takes more than it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import bundle_fuzz
import bundles
import numpy as np
import onnx
import onnxruntime
import pytest
from bundle_fuzz import FROZEN
from bundles import i64, node
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_gan.runtime import Inspector, bundle, manifest
from anomalib_gan.runtime.bundle import BundleError, Manifest, fingerprint, load, recalibrate, write
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.graphs import Graph, Kind, check_graph
from anomalib_gan.runtime.operators import RULES

MIB = 2**20
SAMPLES = Path(__file__).parents[1] / "data_samples"

# --- the manifest --------------------------------------------------------------------------------------------------

positive = st.floats(1e-6, 1e6)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
manifests = st.builds(
    lambda stride, times, low, width, **rest: bundles.manifest(
        stride=stride, smallest=stride * times, map_scale=(low, low + width), files=listed(), **rest
    ),
    stride=st.sampled_from([1, 2, 8, 16]),
    times=st.integers(1, 5),
    low=st.floats(-1e3, 1e3),
    width=st.floats(1e-2, 1e3),
    name=texts,
    version=texts,
    spec=st.fixed_dictionaries({"name": texts, "params": st.dictionaries(texts, json_values, max_size=3)}),
    precision=st.sampled_from(["fp32", "fp16", "int8"]),
    channels=st.sampled_from([1, 3]),
    halo=st.integers(0, 256),
    pixel_size=st.none() | positive,
    white=st.none() | positive,
    bits=st.none() | st.integers(1, 32),
    gates=st.dictionaries(texts, json_values, max_size=3),
    calibration=st.sampled_from([None, bundles.calibration(), bundles.calibration(scale=7.3)]),
)


def listed() -> dict[str, bundle.File]:
    return {"model.onnx": bundle.File("0" * 64, 12), "card/Prüfung.txt": bundle.File("f" * 64, 0)}


@settings(deadline=None, max_examples=60)
@given(manifests)
def test_a_manifest_is_read_as_it_was_written(one: Manifest) -> None:
    data = manifest.encode(one)
    assert manifest.decode(data) == one
    assert json.loads(data)["schema"] == 1


@settings(deadline=None, max_examples=60)
@given(manifests, manifests)
def test_the_fingerprint_is_of_all_entries_but_the_calibration(one: Manifest, other: Manifest) -> None:
    mark = fingerprint(one)
    assert fingerprint(replace(one, calibration=bundles.calibration(scale=3))) == mark
    for entry in fields(Manifest):
        changed = replace(one, **{entry.name: getattr(other, entry.name)})
        alike = entry.name == "calibration" or changed.to_json() == one.to_json()
        assert (fingerprint(changed) == mark) == alike, entry.name


WRONG = [
    ("name", "", "text of 1 to 1000"),
    ("name", 5, "text of 1 to 1000"),
    ("created", "yesterday", "ISO 8601"),
    ("created", "2026-11-21T12:00:00", "UTC"),
    ("created", "2026-11-21T12:00:00+02:00", "UTC"),
    ("version", None, "text"),
    ("spec", {"name": "fcbigan"}, "name and params"),
    ("spec", {"name": "fcbigan", "params": []}, "'spec.params' is [], not an object"),
    ("hash", "ab", "64 lower-case hex"),
    ("hash", "AB" * 32, "64 lower-case hex"),
    ("precision", "fp8", "fp32, fp16, int8"),
    ("channels", 2, "one of 1, 3"),
    ("channels", 1.0, "one of 1, 3"),
    ("channels", True, "one of 1, 3"),
    ("stride", 0, "1 to 1024"),
    ("stride", 4.0, "whole number"),
    ("stride", True, "whole number"),
    ("smallest", 2, "from 4 to"),
    ("smallest", 9, "no multiple of the stride 4"),
    ("halo", -1, "0 to 4096"),
    ("halo", 10**9, "0 to 4096"),
    ("map_scale", [1], "two numbers"),
    ("map_scale", [1, 1], "two rising numbers"),
    ("map_scale", [0, "1"], "'map_scale.1' is '1', not a finite number"),
    ("pixel_size", 0, "above 0"),
    ("pixel_size", "1 um", "finite number"),
    ("white", -255, "above 0"),
    ("bits", 0, "1 to 32"),
    ("gates", [], "an object"),
    ("calibration", {}, "calibration format None"),
    ("calibration", bundles.calibration("f" * 64).to_json(), "belongs to model 'ffffffffffff'"),
    ("calibration", bundles.calibration().to_json() | {"review": None}, "'review' holds None"),
    ("files", {}, "does not list model.onnx"),
    ("files", {"model.onnx": {"sha256": "0" * 64}}, "sha256 and bytes"),
    ("files", {"model.onnx": {"sha256": "0" * 63, "bytes": 1}}, "'files.model.onnx.sha256' is '000"),
    ("files", {"model.onnx": {"sha256": "0" * 64, "bytes": 2**30}}, "'files.model.onnx.bytes' is 1073741824"),
    ("files", {"model.onnx": {"sha256": "0" * 64, "bytes": -1}}, "'files.model.onnx.bytes' is -1"),
    ("schema", 0, "'schema' is 0"),
    ("schema", "1", "'schema' is '1'"),
]


@pytest.mark.parametrize(("entry", "value", "told"), WRONG)
def test_every_wrong_entry_is_named_and_shown(entry: str, value: Any, told: str) -> None:
    good = bundles.manifest(files=listed()).to_json()
    assert Manifest.from_json(good).to_json() == good
    with pytest.raises(BundleError) as error:
        Manifest.from_json(good | {entry: value})
    assert f"manifest '{entry}" in str(error.value) and told in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("entry", [field.name for field in fields(Manifest)])
def test_a_missing_entry_and_one_too_many_are_named(entry: str) -> None:
    value = bundles.manifest(files=listed()).to_json()
    with pytest.raises(BundleError, match=r"unknown: \['colour'\]"):
        Manifest.from_json(value | {"colour": 1})
    del value[entry]
    with pytest.raises(BundleError, match=entry):
        Manifest.from_json(value)


def test_a_newer_schema_is_refused_with_the_mend_whatever_else_it_holds() -> None:
    value = {"schema": 2, "something": "new"}
    with pytest.raises(BundleError, match=r"newer version of anomalib_gan \(schema 2, this one reads 1\): upgrade"):
        manifest.decode(json.dumps(value).encode())


BAD_JSON = {
    "": "valid JSON",
    "[": "valid JSON",
    "[]": "a JSON object, not list",
    "\ufeff{}": "valid JSON",
    '{"schema": 1, "schema": 1}': "a name twice",
    '{"schema": NaN}': "no finite number",
    '{"schema": 1e999}': "no finite number",
    '{"schema": 99999999999999999999}': "too large a number",
    '{"schema": 1, "name": "\\ud800"}': "valid JSON",
    "[" * 100_000: "valid JSON",
}


@pytest.mark.parametrize("text", BAD_JSON, ids=[text[:20] for text in BAD_JSON])
def test_json_that_another_language_may_read_otherwise_is_refused(text: str) -> None:
    with pytest.raises(BundleError, match=BAD_JSON[text]):
        manifest.decode(text.encode())
    with pytest.raises(BundleError, match="valid JSON"):
        manifest.decode(text.encode("utf-16") + b"\xff")


def test_what_json_cannot_hold_is_not_written() -> None:
    for gates in ({"x": float("nan")}, {"x": object()}, {"x": "\ud800"}):
        with pytest.raises(BundleError, match="JSON"):
            manifest.encode(bundles.manifest(gates=gates, files=listed()))


@settings(deadline=None, max_examples=300)
@given(st.integers(0), st.integers(0, 7))
def test_a_flipped_bit_of_the_manifest_is_noticed(place: int, bit: int) -> None:
    good = bundles.manifest(files=listed())
    data = bytearray(manifest.encode(good))
    data[place % len(data)] ^= 1 << bit
    with suppress(BundleError):
        assert manifest.decode(bytes(data)) == good  # 1e-05 and 1E-05 are one number


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./x",
            "",
            "a/",
            "C:/x",
            "c:x",
            "a\\b",
            "//host/x",
            "a\0b",
            "a\nb",
        ),
        *("con", "NUL.txt", "a/com1", "lpt9.png", "x.", "x ", " x", "a:b", "a?", "x*", "|", "manifest.json"),
        *("Manifest.JSON", "a/b/c/d/e/f/g/h/i", "x" * 201, "\u202etxt.exe"),
    ],
)
def test_a_path_that_is_not_plainly_below_the_folder_on_every_system_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no plain path within the bundle"):
        Manifest.from_json(bundles.manifest(files=listed() | {path: bundle.File("0" * 64, 1)}).to_json())
    with pytest.raises(BundleError, match="no plain path within the bundle"):
        write(tmp_path / "x", bundles.manifest(), {**bundles.contents(), path: b""})
    assert not any(tmp_path.iterdir())


def test_paths_that_some_file_system_takes_for_one_are_refused() -> None:
    one = bundle.File("0" * 64, 1)
    for pair in (("card/a", "card/A"), ("card", "card/a")):
        with pytest.raises(BundleError, match="twice, or one below another"):
            Manifest.from_json(bundles.manifest(files=listed() | dict.fromkeys(pair, one)).to_json())
    with pytest.raises(BundleError, match="more than 256 files"):
        Manifest.from_json(bundles.manifest(files=listed() | {f"card/{i}": one for i in range(256)}).to_json())
    large = {f"card/{i}": bundle.File("0" * 64, 64 * MIB) for i in range(33)}
    with pytest.raises(BundleError, match="or 2147483648 bytes"):
        Manifest.from_json(bundles.manifest(files=listed() | large).to_json())


# --- the folder ----------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return bundles.write(tmp_path / "detector.bundle")


def test_a_bundle_is_read_as_it_was_written(good: Path, tmp_path: Path) -> None:
    found, contents = load(good), bundles.contents()
    assert found.model == contents["model.onnx"]
    assert {name: found.read(name) for name in contents} == contents
    assert found.manifest == replace(bundles.manifest(), files=found.manifest.files)
    source = tmp_path / "elsewhere.onnx"
    source.write_bytes(contents["model.onnx"])
    written = write(tmp_path / "b", bundles.manifest(), {**contents, "model.onnx": source})
    assert written == found.manifest == bundle.read_manifest(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "detector.bundle", "elsewhere.onnx"]
    with pytest.raises(KeyError):
        found.read("manifest.json")


def test_nothing_is_overwritten_unasked_and_only_a_bundle_ever(good: Path, tmp_path: Path) -> None:
    before = bundle_fuzz.read(good)
    with pytest.raises(FileExistsError, match=r"detector\.bundle exists: choose another place"):
        bundles.write(good)
    precious = tmp_path / "photos"
    precious.mkdir()
    with pytest.raises(FileExistsError, match="is no bundle, so it is not replaced"):
        write(precious, bundles.manifest(), bundles.contents(), overwrite=True)
    assert bundle_fuzz.read(good) == before
    write(good, bundles.manifest(name="another"), bundles.contents(), overwrite=True)
    assert load(good).manifest.name == "another"
    (tmp_path / "current").symlink_to(good)
    write(tmp_path / "current", bundles.manifest(name="third"), bundles.contents(), overwrite=True)
    assert load(good).manifest.name == "third" and (tmp_path / "current").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["current", "detector.bundle", "photos"]


@pytest.mark.parametrize("step", ["read", "flush", "encode", "first rename", "second rename"])
def test_a_write_that_fails_leaves_everything_as_it_was(
    step: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, Any] = dict(bundles.contents())
    one = bundles.manifest(name="new")
    before, renames = bundle_fuzz.read(good), []

    def rename(source: Any, target: Any) -> None:
        renames.append(source)
        if len(renames) == (1 if step == "first rename" else 2):
            raise OSError("the disk is gone")
        os.replace(source, target)

    def fail(*_: Any) -> None:
        raise OSError("the disk is gone")

    if step == "read":
        files["card/missing"] = tmp_path / "missing"
    elif step == "flush":
        monkeypatch.setattr(bundle.os, "fsync", fail)
    elif step == "encode":
        one = replace(one, stride=0)
    else:
        monkeypatch.setattr(bundle.os, "rename", rename)
    with pytest.raises((OSError, BundleError)):
        write(good, one, files, overwrite=True)
    assert bundle_fuzz.read(good) == before and list(tmp_path.iterdir()) == [good]


def test_recalibrating_rewrites_the_manifest_alone(good: Path) -> None:
    before, mark = bundle_fuzz.read(good), fingerprint(load(good).manifest)
    new = bundles.calibration(scale=2)
    assert recalibrate(good, new).calibration == new
    after = bundle_fuzz.read(good)
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"} and set(after) == set(before)
    found = load(good, expect_sha256=mark).manifest
    assert found.calibration == new
    assert replace(found, calibration=bundles.calibration()) == replace(bundles.manifest(), files=found.files)
    with pytest.raises(BundleError, match="belongs to model 'ffff"):
        recalibrate(good, bundles.calibration("f" * 64))
    assert bundle_fuzz.read(good) == after


def test_a_pinned_bundle_is_no_other(good: Path, tmp_path: Path) -> None:
    mark = fingerprint(load(good).manifest)
    assert load(good, expect_sha256=mark.upper() + "\n").manifest
    other = bundles.write(tmp_path / "other", bundles.mean_of_nine())
    for wrong in (fingerprint(load(other).manifest), "", "x"):
        with pytest.raises(BundleError, match=f"fingerprint {mark}, not the expected"):
            load(good, expect_sha256=wrong)


def test_every_damaged_file_is_named(good: Path) -> None:
    for name, data in bundle_fuzz.read(good).items():
        if name == "manifest.json":
            continue
        for bad, told in (
            (data + b"x", rf"{name} has \d+ bytes instead of at most {len(data)}"),
            (data[:-1], f"{name} has {len(data) - 1} bytes instead of {len(data)}"),
            (bytes([data[0] ^ 1]) + data[1:], f"{name} is damaged"),
        ):
            (good / name).write_bytes(bad)
            with pytest.raises(BundleError, match=told):
                load(good)
        (good / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing"):
            load(good)
        (good / name).mkdir()
        with pytest.raises(BundleError, match=f"{name} is no regular file"):
            load(good)
        (good / name).rmdir()
        (good / name).write_bytes(data)
    found = load(good)
    (good / "card/card.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match=r"card/card\.json is damaged"):
        found.read("card/card.json")


def test_links_and_devices_are_not_followed(good: Path, tmp_path: Path) -> None:
    (good / "card").rename(tmp_path / "outside")
    (good / "card").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match=r"card/\S+ is reached through a link"):
        load(good)
    (good / "card").unlink()
    (tmp_path / "outside").rename(good / "card")
    load(good)
    (good / "model.onnx").rename(tmp_path / "model.onnx")
    (good / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"model.onnx is reached through a link"):
        load(good)
    (good / "model.onnx").unlink()
    os.mkfifo(good / "model.onnx")  # opening it as a file would wait for ever
    with pytest.raises(BundleError, match=r"model.onnx is no regular file"):
        load(good)
    (good / "model.onnx").unlink()
    (tmp_path / "model.onnx").rename(good / "model.onnx")
    (good / "manifest.json").rename(tmp_path / "manifest.json")
    (good / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest.json is reached through a link"):
        load(good)


def test_files_that_are_not_listed_do_not_matter_and_the_folder_may_be_a_link(good: Path, tmp_path: Path) -> None:
    (good / ".DS_Store").write_bytes(b"x")
    (good / "model.onnx.data").write_bytes(b"x")
    (tmp_path / "current").symlink_to(good)
    assert load(tmp_path / "current").manifest == load(good).manifest


def test_what_is_no_bundle_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for place in ("run", "file", "missing"):
        with pytest.raises(BundleError, match=f"{place} is no bundle: it holds no manifest.json"):
            load(tmp_path / place)


def test_the_frozen_bundle_says_for_ever_what_its_trained_model_said() -> None:
    told = read_json(FROZEN.with_suffix(".json"))
    inspector = Inspector.load(FROZEN, "cpu", expect_sha256=told["fingerprint"])
    low, high = inspector.backend.scale
    for name, figures in told["images"].items():
        found = inspector(SAMPLES / name)
        assert abs(found.score - figures["score"]) < 1e-4 * (high - low) > abs(found.peak - figures["peak"])
        assert (found.verdict, found.defect_count) == (figures["verdict"], figures["defects"])
    frozen = load(FROZEN)
    for kind in ("parts", "generator"):
        check_graph(frozen.read(f"{kind}.onnx"), frozen.manifest, kind)


# --- the graphs ----------------------------------------------------------------------------------------------------


def check(model: onnx.ModelProto, kind: Kind = "model", **changes: Any) -> Graph:
    return check_graph(model.SerializeToString(), bundles.manifest(**changes), kind)


@pytest.mark.parametrize("which", ["tour", "frozen"])
def test_every_rule_agrees_with_onnx_runtime_in_types_sizes_and_values(which: str) -> None:
    if which == "tour":
        graph, sizes = check(bundles.tour()), [(1, 1, 8, 8), (2, 1, 64, 36), (5, 1, 12, 8)]
        assert {one.op for one in graph.program.nodes} == set(RULES), "a new rule belongs into the tour"
    else:
        found = load(FROZEN)
        graph, sizes = check_graph(found.model, found.manifest), [(1, 1, 16, 16), (2, 1, 128, 48)]
    seen = onnx.ModelProto.FromString(graph.data)
    names = [name for one in seen.graph.node for name in one.output]
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(seen.SerializeToString(), options, ["CPUExecutionProvider"])
    for size in sizes:
        image = np.random.default_rng(0).integers(0, 256, size).astype(np.float32)
        real = dict(zip(names, session.run(names, {"image": image, "white": np.array(255, np.float32)}), strict=True))
        tensors, cost = graph.trace(size)
        for name in names:
            assert (tensors[name].type, tensors[name].shape) == (real[name].dtype.name, real[name].shape), name
            if tensors[name].value is not None:
                np.testing.assert_array_equal(tensors[name].value, real[name])
        assert cost.bytes >= sum(array.nbytes for array in real.values())
        assert which != "tour" or sum(tensors[name].value is not None for name in names) > 10


def test_the_arithmetic_of_a_graph_is_that_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        node(
            "Conv", "image w", "a", strides=[2, 2], pads=[1, 1, 1, 1]
        ),  # 3 x 4 x 4 kernel numbers, to 1/4 of the pixels
        node("ConvTranspose", "a v", "anomaly_map", strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    weights = {"w": rng.random((6, 3, 4, 4), np.float32), "v": rng.random((6, 1, 4, 4), np.float32)}
    model = bundles.model(nodes, weights, {"image": ("N", 3, "H", "W"), "white": ()})
    graph = check(model, channels=3)
    assert graph.cost((2, 3, 64, 32)).macs == 2 * (32 * 16) * (6 * 3 * 16 + 6 * 16)


def test_what_runs_holds_nothing_that_was_not_looked_at() -> None:
    plain = check(bundles.tour()).data
    model = bundles.tour()
    model.doc_string = model.producer_name = model.graph.doc_string = "x" * 1000
    model.metadata_props.add(key="ort_config", value="{}")
    model.graph.value_info.add(name="c1")
    model.opset_import[0].domain = "ai.onnx"
    for one in model.graph.node:
        one.name = one.doc_string = "noise"
        one.metadata_props.add(key="a", value="b")
    for weight in model.graph.initializer:
        weight.doc_string = "noise"
    unknown = b"\xfa\xff\x01\x03abc"  # a field that ONNX has not
    assert check_graph(model.SerializeToString() + unknown, bundles.manifest()).data == plain
    typed = bundles.tour()
    for place, weight in enumerate(typed.graph.initializer):  # numbers as onnx.helper writes them
        array = onnx.numpy_helper.to_array(weight)
        values = array.ravel().tolist()
        typed.graph.initializer[place].CopyFrom(
            onnx.helper.make_tensor(weight.name, weight.data_type, array.shape, values)
        )
    assert check(typed).data == plain


@pytest.mark.parametrize("kind", ["parts", "generator"])
def test_parts_and_generator_have_their_own_ends(kind: Kind) -> None:
    half, weights = (
        node("AveragePool", "image", "code", kernel_shape=[4, 4], strides=[4, 4]),
        {"s": bundles.f32(1, 1, 4, 4)},
    )
    if kind == "parts":
        nodes = [half, node("Resize", "code _ s", "reconstruction"), node("Sub", "image reconstruction", "residual")]
        outputs = ("reconstruction", "residual", "code")
        model = bundles.model(nodes, weights, outputs=outputs)
    else:
        model = bundles.model([node("Resize", "z _ s", "image")], weights, {"z": ("N", 1, "h", "w")}, ["image"])
    assert check(model, kind).outputs == tuple(output.name for output in model.graph.output)
    with pytest.raises(BundleError, match=r"model\.onnx: has the (inputs|outputs)"):
        check(model)
    model.graph.output[0].name = "other"
    with pytest.raises(BundleError, match=rf"{kind}.onnx: has the outputs \['other'"):
        check(model, kind)


def spoilt(change: Any) -> onnx.ModelProto:
    model = bundles.tour()
    change(model)
    return model


def attribute(op: str, name: str, value: Any) -> Any:
    def change(model: onnx.ModelProto) -> None:
        one = next(one for one in model.graph.node if one.op_type == op)
        for old in [old for old in one.attribute if old.name == name]:
            one.attribute.remove(old)
        one.attribute.append(onnx.helper.make_attribute(name, value))

    return change


def weight(name: str, value: Any) -> Any:
    def change(model: onnx.ModelProto) -> None:
        one = next(one for one in model.graph.initializer if one.name == name)
        one.CopyFrom(onnx.numpy_helper.from_array(value, name))

    return change


REFUSED = {
    "opset 17": (lambda m: setattr(m.opset_import[0], "version", 17), "operator sets"),
    "opset 99": (lambda m: setattr(m.opset_import[0], "version", 99), "a newer version may read it"),
    "second domain": (lambda m: m.opset_import.add(domain="com.microsoft", version=1), "com.microsoft"),
    "foreign node": (lambda m: setattr(m.graph.node[3], "domain", "com.microsoft"), "node 3, .*domain 'com.microsoft'"),
    "function": (lambda m: m.functions.add(name="f"), "holds functions"),
    "training": (lambda m: m.training_info.add(), "holds functions, training"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse weights"),
    "outside": (lambda m: setattr(m.graph.initializer[0], "data_location", 1), "outside the file"),
    "elsewhere": (lambda m: m.graph.initializer[0].external_data.add(key="location", value="x"), "outside the file"),
    "text weight": (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "type or size that is not allowed"),
    "short weight": (lambda m: setattr(m.graph.initializer[-1], "raw_data", b"1234"), "has 4 bytes for the size"),
    "same weight": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "name or that of another"),
    "weight for input": (lambda m: setattr(m.graph.initializer[0], "name", "image"), "name or that of another"),
    "more inputs": (lambda m: m.graph.input.append(m.graph.input[0]), "has the inputs"),
    "half image": (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 10), "no float32 tensor"),
    "fixed height": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 8),
        "size .None, 1, 8, None., which does not fit the manifest",
    ),
    "three channels": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 3),
        "does not fit the manifest",
    ),
    "white per image": (lambda m: m.graph.input[1].type.tensor_type.shape.dim.add(), "'white' is no single number"),
    "output name": (lambda m: setattr(m.graph.output[0], "name", "map"), r"has the outputs \['map'\]"),
    "output of no node": (lambda m: m.graph.node.pop(), "no node makes the output 'anomaly_map'"),
    "inner output": (lambda m: setattr(m.graph.node[-1], "op_type", "Shape"), "'anomaly_map' is int64"),
    "unordered": (lambda m: m.graph.node[0].input.__setitem__(0, "a12"), "node 0, .*'a12' is made by no earlier node"),
    "twice": (lambda m: m.graph.node[5].output.__setitem__(0, "share"), "another's"),
    "not allowed": (
        lambda m: setattr(m.graph.node[2], "op_type", "Tile"),
        "node 2, 'Tile': this operator is not allowed",
    ),
    "unknown attribute": (attribute("Conv", "fast", 1), "attribute 'fast' is not allowed"),
    "subgraph": (
        attribute("Conv", "body", onnx.helper.make_graph([], "b", [], [])),
        "attribute 'body' .* kind that is not allowed",
    ),
    "automatic pads": (attribute("Conv", "auto_pad", "SAME_UPPER"), "'auto_pad' is 'SAME_UPPER'"),
    "stride 0": (attribute("Conv", "strides", [0, 1]), r"'strides' is \[0, 1\]"),
    "wide dilation": (attribute("Conv", "dilations", [999, 1]), "kernel spans"),
    "negative pads": (attribute("Conv", "pads", [-1, 0, 0, 0]), "not within 0 to 1024"),
    "groups": (attribute("Conv", "group", 3), "in 3 groups do not fit"),
    "crop": (attribute("Resize", "coordinate_transformation_mode", "tf_crop_and_resize"), "tf_crop_and_resize"),
    "endless slope": (attribute("LeakyRelu", "alpha", float("inf")), "not a finite number"),
    "cast to text": (attribute("Cast", "to", 8), "casts to a type that is not allowed"),
    "block": (attribute("SpaceToDepth", "blocksize", 10**6), "'blocksize' is .1000000."),
    "equation": (attribute("Einsum", "equation", "ii,ndhw->nihw"), "'ii' of its equation|repeats an axis"),
    "permutation": (attribute("Transpose", "perm", [0, 0, 1, 2]), "no order of 4 axes"),
    "gather beyond": (weight("two", np.array(9)), r"indices are \[9\]"),
    "wrong scale": (weight("doubled", bundles.f32(1, 1, 2, np.nan)), "its scales are"),
    "wrong pads": (weight("pads", i64(0, 0, 0, 5, 0, 0, 0, 4)), "do not fit together"),
    "wrong parts": (weight("parts", i64(2, 3)), "do not make up 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_detector_has_no_need_of_is_refused_and_named(case: str) -> None:
    change, told = REFUSED[case]
    with pytest.raises(BundleError, match=told) as error:
        check(spoilt(change))
    assert str(error.value).startswith("model.onnx") and "\n" not in str(error.value)


def test_a_cost_that_grows_faster_than_the_image_is_refused_at_the_size_where_it_is_too_much() -> None:
    nodes = [
        node("Reshape", "image s", "row"),
        node("Reshape", "image t", "column"),
        node("MatMul", "column row", "all"),
        node("ReduceMean", "all last", "each"),
        node("Shape", "image", "size"),
        node("Reshape", "each size", "anomaly_map"),
    ]
    weights = {"s": i64(0, 1, 1, -1), "t": i64(0, 1, -1, 1), "last": i64(3)}
    with pytest.raises(BundleError, match=r"input of \[1, 1, 20\d\d, 20\d\d\].*an output has the size"):
        check(bundles.model(nodes, weights))


# --- hostile bundles -----------------------------------------------------------------------------------------------


def workers(what: str, folder: Path, count: int) -> tuple[Counter[tuple[str, str]], int]:
    """(how many were of which kind and ended how, peak memory in bytes); a worker that dies is replaced."""
    ends: Counter[tuple[str, str]] = Counter()
    peak = first = 0
    while first < count:
        command = [sys.executable, bundle_fuzz.__file__, what, str(folder), str(first), str(count)]
        done = subprocess.run(command, capture_output=True, text=True)
        begun = first
        for line in done.stdout.splitlines():
            number, *rest = line.split(" ", 2)
            if number == "peak":
                peak = max(peak, int(rest[0]) * 1024)
            elif rest:
                ends[rest[0], rest[1]] += 1
            else:
                begun = int(number)
        if done.returncode:
            ends[f"{what} {begun}", f"died with {done.returncode}: {done.stderr[-300:]}"] += 1
        first = begun + 1 if done.returncode else count
    return ends, peak


def test_a_worker_that_dies_is_found_with_the_number_of_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "worker.py"
    fake.write_text("""
import os, signal, sys
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    print(number, flush=True)
    if number == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    print(number, "damaged refused", flush=True)
print("peak 7")
""")
    monkeypatch.setattr(bundle_fuzz, "__file__", str(fake))
    ends, peak = workers("mutants", tmp_path, 5)
    assert ends == {("damaged", "refused"): 4, ("mutants 2", "died with -11: "): 1} and peak == 7 * 1024


@pytest.mark.slow
def test_no_hostile_bundle_of_5000_does_more_than_being_refused(tmp_path: Path) -> None:
    ends, peak = workers("mutants", tmp_path, 5000)
    allowed = {("damaged", "refused"), ("attacked", "refused"), ("attacked", "map"), ("attacked", "error")}
    assert set(ends) <= allowed and ends.total() == 5000, ends
    assert ends["damaged", "refused"] == 2000
    assert min(ends["attacked", "map"], ends["attacked", "refused"]) > 200  # neither blind nor deaf
    assert peak < 512 * MIB


@pytest.mark.slow
def test_every_bomb_is_refused_within_the_memory_limit(tmp_path: Path) -> None:
    count = len(bundle_fuzz.all_bombs())
    ends, peak = workers("bombs", tmp_path, count)
    assert ends == {("bombs", "refused"): count}
    assert peak < 768 * MIB
