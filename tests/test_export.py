"""What leaves as a bundle does what was trained, in every precision; what does not is never written."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import typer
from bundles import manifest
from rich.console import Console
from test_training import Toy, texture, write
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d
from typer.testing import CliRunner

from anomalib_gan import checkpoint, gates, models
from anomalib_gan.export import (
    Coloured,
    Drawn,
    TorchBackend,
    convolutions,
    fold,
    generator_graph,
    halved,
    model_graph,
    networks,
    prior_graph,
    quantised,
)
from anomalib_gan.opening import open_inspector
from anomalib_gan.runtime import BundleError, Inspector
from anomalib_gan.runtime.bundle import fingerprint, load, read_manifest
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.graphs import check_graph
from anomalib_gan.runtime.image import open_image
from anomalib_gan.runtime.session import OnnxBackend, OnnxGraph
from pipelines import export as job
from pipelines.calibrate import calibrate
from pipelines.export import export
from pipelines.train import train


def block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class Chain(nn.Module):
    """A network with an attribute that its model needs."""

    stride = 4

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(block(channels, width), *(block(width, width) for _ in range(5)))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(x))


class Deep(Toy):
    """A toy deep enough to be quantised, whose map is smoothed by a filter of its own, and which tells its parts."""

    stride, halo, code = 4, 12, 3

    def __init__(self, channels: int = 1, width: int = 8, patch: int = 16, batch: int = 4, noise: float = 0.2) -> None:
        super().__init__(channels, width, patch, batch, noise)
        self.G = Chain(channels, width)
        self.widen = nn.ModuleList([nn.Conv2d(self.code, channels, 1)])

    def players(self):
        first = super().players()
        return {**first, "maker": type(first["maker"])((self.G, self.widen), 2e-2)}

    def play(self, batches, progress):
        for who, terms in super().play(batches, progress):
            drawn = self.generate(torch.randn(1, self.code, 8, 8)).square().mean()
            yield who, {**terms, "drawn": drawn} if who == "maker" else terms

    def anomaly_map(self, x):
        box = torch.full((1, 1, 5, 5), 1 / 25, device=x.device)
        return conv2d((self.G(x) - x).abs().mean(1, keepdim=True), box, padding=2) - self.usual

    def parts(self, x):
        y = self.G(x)
        return {"reconstruction": y, "residual": (y - x).abs().mean(1, keepdim=True), "code": avg_pool2d(x, 4)}

    def generate(self, z):
        return self.widen[0](z).tanh()


@pytest.fixture(scope="module", autouse=True)
def zoo():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "deep", Deep)
        patch.setitem(models.MODELS, "toy", Toy)
        yield


@pytest.fixture(scope="module")
def normal(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "normal"
    for i in range(3):
        write(folder / f"{i}.png", texture(i, 96, 300))
    return folder


@pytest.fixture(scope="module")
def run(normal, tmp_path_factory) -> Path:
    """A calibrated run."""
    out = tmp_path_factory.mktemp("export") / "run"
    train(normal, out=out, model="deep", steps=80, device="cpu")
    calibrate(out)
    return out


@pytest.fixture(scope="module")
def model(run) -> Deep:
    return checkpoint.load_model(run)[0]


def backend(data: bytes, model, **changes) -> OnnxBackend:
    told = manifest(
        channels=model.channels,
        stride=model.stride,
        smallest=model.stride,
        halo=model.halo,
        calibration=None,
        **changes,
    )
    return OnnxBackend(check_graph(data, told), told, device="cpu", threads=1)


def trained(model) -> TorchBackend:
    return TorchBackend(model, hash="0" * 64, scale=(-0.2, 0.5), device="cpu")


def images(run: Path):
    return gates.normals(read_json(run / "card.json"))


def graph_of(data: bytes) -> onnx.GraphProto:
    return onnx.load_model_from_string(data).graph


def told() -> tuple[Console, StringIO]:
    text = StringIO()
    return Console(file=text, width=500, markup=False, highlight=False), text


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_decides_as_its_run(precision, run, tmp_path):
    console, text = told()
    out = tmp_path / "a folder" / "detector.bundle"
    written = export(run, out, precision=precision, generator=True, console=console)
    bundle, ours = load(out), open_inspector(run, device="cpu")
    assert bundle.manifest == written and written.precision == precision and written.name == run.name
    assert fingerprint(written) in text.getvalue() and "max difference" in text.getvalue()
    key = ours.backend.hash
    assert written.hash == (key if precision == "fp32" else hashlib.sha256(f"{key} {precision}".encode()).hexdigest())
    assert written.spec == read_json(run / "card.json")["spec"] and written.map_scale == ours.backend.scale
    assert ours.calibration is not None and written.calibration is not None
    assert written.calibration.model == written.hash and written.calibration.scores == ours.calibration.scores
    assert ("calibrate" in text.getvalue()) == (precision != "fp32")  # thresholds that another precision scored

    kinds = {name for name in written.files if "/" not in name}
    assert kinds == {"model.onnx", "parts.onnx", "generator.onnx"}
    assert bundle.read("card/split.json") == (run / "split.json").read_bytes()
    assert {f"card/{name}.png" for name in ("curves", "samples", "reconstructions")} <= set(written.files)
    assert set(written.gates["parts"]) == {"reconstruction", "residual", "code"}
    assert max(*written.gates["parts"].values(), *written.gates["generator"].values()) < 1e-4
    assert written.gates["same_verdicts"] >= 0.99 and written.gates["rank_correlation"] >= 0.995

    theirs = Inspector.load(out, device="cpu")
    for seed in range(4):
        image = texture(10 + seed, 90, 130)
        image[30:50, 40:60] = 255 * (seed % 2)
        one, other = ours(image), theirs(image)
        assert one.verdict == other.verdict or precision == "int8"
        unit = written.map_scale[1] - written.map_scale[0]
        assert np.abs(one.map - other.map).mean() < {"fp32": 1e-5, "fp16": 1e-2, "int8": 5e-2}[precision] * unit


@pytest.mark.slow
def test_graphs_are_plain_repeatable_and_free_in_number_and_size(model):
    data = model_graph(model)
    assert model_graph(model) == data
    whole = onnx.load_model_from_string(data)
    assert [(one.domain, one.version >= 18) for one in whole.opset_import] == [("", True)]
    assert not whole.metadata_props and not whole.functions and not whole.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in whole.graph.node)
    assert all(weight.data_location == onnx.TensorProto.DEFAULT for weight in whole.graph.initializer)
    assert "BatchNormalization" not in {node.op_type for node in whole.graph.node}
    sides = [[side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim] for one in whole.graph.input]
    assert sides == [["N", 1, "H", "W"], []]

    exported, reference = backend(data, model), trained(model)
    rng = np.random.default_rng(0)
    for n, height, width, white in ((1, 4, 4, 255.0), (3, 40, 24, 65535.0), (2, 8, 100, 4095.0), (1, 12, 16, 1.0)):
        image = rng.uniform(0, white, (n, 1, height, width)).astype(np.float32)
        assert np.abs(exported(image, white) - reference(image, white)).max() < 1e-5


@pytest.mark.slow
def test_half_is_for_networks_and_eight_bits_for_what_lies_within_them(model, run):
    half = {w.name: w.data_type for w in graph_of(model_graph(model, "fp16")).initializer}
    nets = [name for name in half if name.startswith("model.G.")]
    assert nets and all(half[name] == onnx.TensorProto.FLOAT16 for name in nets)
    filters = [name for name, kind in half.items() if kind == onnx.TensorProto.FLOAT and name not in nets]
    assert filters  # the shell's own, which is no network's

    data = model_graph(model)
    given = gates.feeds(images(run), trained(model))
    found = list(convolutions(model, data))
    assert len(found) == 6  # of seven in the networks: not the last one, nor the filter of the shell
    for chosen in (found, found[1:], found[3:4]):
        graph = graph_of(quantised(data, given, chosen))
        kinds = {w.name: w.data_type for w in graph.initializer}
        small = [name for name, kind in kinds.items() if kind == onnx.TensorProto.INT8 and "weight_quantized" in name]
        small = [name for name in small if not name.endswith(("zero_point", "scale"))]
        assert len(small) == len(chosen)
        assert kinds["model.G.last.weight"] == onnx.TensorProto.FLOAT
        assert (kinds.get("model.G.layers.0.0.weight") == onnx.TensorProto.FLOAT) == (chosen != found)
        weights = [onnx.numpy_helper.to_array(w) for w in graph.initializer if w.name in small]
        assert max(np.abs(w.astype(int)).max() for w in weights) <= 64  # 7 bits: nothing saturates without VNNI


@pytest.mark.slow
def test_the_convolution_that_8_bits_harm_most_is_the_first_to_stay_float(run):
    """A channel a hundred times as large as the others leaves these hardly a level of their activation's range."""
    other = Deep(1).eval()
    other.load_state_dict(open_inspector(run, device="cpu").backend.graph.model.state_dict())
    layers = list(other.G.layers)
    with torch.no_grad():
        layers[2][0].weight[0] *= 100
        layers[3][0].weight[:, 0] /= 100
    reference, data = trained(other), model_graph(other)
    manifest = job.describe(read_card(run), reference, "int8")
    harm = gates.harms(data, convolutions(other, data), manifest, images(run), reference)
    assert set(harm) == set(convolutions(other, data)) and all(value > 0 for value in harm.values())
    names = {node.name: node.input[1] for node in graph_of(data).node if node.op_type == "Conv"}
    assert names[next(iter(harm))].startswith(("model.G.layers.2", "model.G.layers.3"))  # who make it and who take it


def test_eight_bits_need_a_convolution_before_the_last():
    single = Deep(1).eval()
    single.G = nn.Conv2d(1, 1, 3, padding=1)
    with pytest.raises(ValueError, match="int8 has no convolution to quantise"):
        convolutions(single, model_graph(single))


def test_plans_take_what_the_gate_lets_hope_for_and_then_ever_less():
    harm = {"a": 0.03, "b": 0.004, "c": 0.003, "d": 0.002, "e": 0.001}
    assert list(gates.plans(harm)) == [["b", "c", "d", "e"], ["c", "d", "e"], ["d", "e"], ["e"]]
    assert next(gates.plans(dict.fromkeys("abcdefgh", 0.001))) == list("abcdefgh")
    assert list(gates.plans(dict.fromkeys("ab", 0.5))) == [["b"]]


def test_a_halved_copy_keeps_its_attributes_and_leaves_the_model_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    copy = halved(model)
    assert copy.G.stride == 4 and copy.usual.dtype == torch.float32
    assert {p.dtype for p in copy.G.parameters()} == {torch.float16}
    assert list(networks(copy)) == [copy.G, copy.D, copy.widen[0]]
    x = torch.rand(1, 1, 16, 20)
    assert copy.G(x).dtype == torch.float32 and copy.widen[0](torch.rand(1, 3, 4, 4)).dtype == torch.float32
    with torch.no_grad():
        assert torch.allclose(copy.anomaly_map(x), model.anomaly_map(x), atol=5e-3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.dtype == before[name].dtype for name, value in model.state_dict().items())


@torch.no_grad()
def test_folding_batch_norms_changes_no_output():
    torch.manual_seed(0)
    up = nn.Sequential(nn.ConvTranspose2d(3, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), up, nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    for norm in (net[1], net[3][1], net[4]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.rand(2, 1, 9, 9)
    wanted = net.eval()(x)
    fold(net)
    assert torch.allclose(net(x), wanted, atol=1e-5)
    assert [isinstance(one, nn.Identity) for one in (net[1], net[3][1], net[4])] == [True, True, False]


@pytest.mark.slow
def test_a_graph_that_is_too_far_off_is_not_written(run, tmp_path, monkeypatch):
    """Neither in fp32, where a little is too much, nor in int8, however many convolutions stay float."""

    def spoilt(model, *settings):
        other = Deep(model.channels).eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            other.usual += 0.02
        return model_graph(other, *settings)

    monkeypatch.setattr(job, "model_graph", spoilt)
    for precision in ("fp32", "int8"):
        console, text = told()
        with pytest.raises(gates.GateError, match=r"difference is .*, not below .*: nothing was written"):
            export(run, tmp_path / "x.bundle", precision=precision, console=console)
        assert "verdicts" in text.getvalue()  # the figures are told all the same
    assert list(tmp_path.iterdir()) == []


class Shifted(TorchBackend):
    """A detector whose map differs a little from the trained one's."""

    noise = shift = 0.0

    def __call__(self, image, white):
        map = super().__call__(image, white)
        low, high = self.scale
        rng = np.random.default_rng(0)
        return map + np.float32(high - low) * (self.shift + self.noise * rng.standard_normal(map.shape, np.float32))


def test_gates_see_shifts_noise_and_other_verdicts(model, run, monkeypatch):
    monkeypatch.setattr(gates, "CROPS", 20)
    stored = open_inspector(run, device="cpu")
    reference = stored.backend
    other = Shifted(model, hash="1" * 64, scale=reference.scale, device="cpu")
    taken = images(run)
    same = gates.measure(reference, other, taken, stored.calibration)
    assert (same.crops, same.max_difference, same.same_verdicts) == (40, 0.0, 1.0)
    assert same.rank_correlation == pytest.approx(1) and not same.failures("fp32")

    other.shift = 0.02
    shifted = gates.measure(reference, other, taken, stored.calibration)
    assert shifted.mean_difference == pytest.approx(0.02, rel=1e-3) and shifted.rank_correlation > 0.9999
    assert "max difference" in shifted.failures("fp32")[0] and "mean difference" in shifted.failures("int8")[0]

    other.shift, other.noise = 0.0, 0.1
    noisy = gates.measure(reference, other, taken, stored.calibration)
    assert any("rank correlation" in reason for reason in noisy.failures("int8"))

    other.shift, other.noise = 10.0, 0.0
    wrong = gates.measure(reference, other, taken, None)
    assert "fitted" in wrong.thresholds and wrong.same_verdicts < 0.99
    assert any("verdicts" in reason for reason in wrong.failures("fp16"))


def test_crops_are_of_every_image_the_same_each_time_and_in_grey_levels(run):
    taken, reference = images(run), open_inspector(run, device="cpu").backend
    once, again = (gates.crops(taken, reference, 6, "x") for _ in range(2))
    assert all(np.array_equal(a.grey, b.grey) for a, b in zip(once, again, strict=True))
    for number, crop in enumerate(once):
        whole = open_image(taken[number % 3].path).rows(0, 96)
        assert crop.grey.shape == (96, 256, 1) and crop.white == 255 and crop.grey.max() > 1
        assert any(np.array_equal(crop.grey, whole[:, left : left + 256]) for left in range(300 - 256 + 1))
    bad = gates.spoilt(once)
    assert all(np.array_equal(a.grey, b.grey) for a, b in zip(bad, gates.spoilt(once), strict=True))
    for a, b in zip(once, bad, strict=True):
        assert b.grey.shape == a.grey.shape and 0.001 < (np.abs(a.grey - b.grey) > 1).mean() < 0.9
        assert b.grey.min() >= -1e-3 and b.grey.max() <= 255.01
    feed = gates.feeds(taken, reference)[0]
    assert feed["image"].shape == (1, 1, 96, 256) and feed["white"].shape == ()


def test_images_must_be_those_of_the_training_unless_others_are_given(run, normal, tmp_path):
    card = read_json(run / "card.json")
    write(tmp_path / "other.png", texture(7, 96, 300))
    card["data"]["images"][1]["path"] = str(tmp_path / "other.png")
    with pytest.raises(ValueError, match=r"other.png is not the file of the training .*--good"):
        gates.normals(card)
    card["data"]["images"][1]["path"] = str(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"gone.png.*--good"):
        gates.normals(card)
    assert len(gates.normals(card, normal)) == 3


@pytest.mark.slow
def test_parts_and_generator_come_only_from_models_that_have_them(normal, tmp_path):
    torch.manual_seed(0)
    model = Deep().eval()  # drawn afresh: how far training drives the hyperbolic tangent is not what is asked here
    graph = check_graph(generator_graph(model), manifest(), "generator")
    z = np.random.default_rng(0).normal(0, 3, (2, 3, 5, 6)).astype(np.float32)
    drawn = OnnxGraph(graph)(z=z)["image"]
    assert drawn.shape == (2, 1, 5, 6) and 0 <= drawn.min() < drawn.max() <= 1
    assert gates.same_outputs(Drawn(model), OnnxGraph(graph), gates.codes(model))["image"] < 1e-6
    with pytest.raises(gates.GateError, match=r"image is .*, not below 0.0001"):
        gates.same_outputs(Drawn(Deep()), OnnxGraph(graph), gates.codes(model))

    detector = models.build("fcbigan", code=3, width=8).eval()
    detector.field.copy_(torch.randn_like(detector.field) / 20)
    detector.code_mean.fill_(2.0)
    prior = check_graph(prior_graph(detector), manifest(), "prior")
    z = np.random.default_rng(0).normal(size=(2, 3, 16, 20)).astype(np.float32)
    lost = detector.field.shape[-1] - 1
    code = OnnxGraph(prior)(z=z)["code"]
    assert code.shape == (2, 3, 16 - lost, 20 - lost) and abs(code.mean() - 2) < 1
    assert gates.same_outputs(Coloured(detector), OnnxGraph(prior), gates.codes(detector, 17, 19))["code"] < 1e-6

    plain = train(normal, out=tmp_path / "plain", model="toy", steps=5, device="cpu")
    for missing in ({"parts": True}, {"generator": True}):
        with pytest.raises(ValueError, match=r"Toy has no '(parts|generate|code)'"):
            export(plain, tmp_path / "x.bundle", console=told()[0], **missing)
    assert not (tmp_path / "x.bundle").exists()
    console, text = told()
    export(plain, tmp_path / "x.bundle", console=console)
    assert set(read_manifest(tmp_path / "x.bundle").files) >= {"model.onnx", "card/card.json"}
    assert "fitted to 100 other normal crops" in text.getvalue() and "no verdicts yet" in text.getvalue()
    assert Inspector.load(tmp_path / "x.bundle", device="cpu")(texture(3, 60, 70)).verdict is None


def test_what_cannot_leave_says_why(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(Deep, "exportable", "it draws random numbers")
    with pytest.raises(ValueError, match=r"^not exportable: it draws random numbers$"):
        export(run, tmp_path / "x.bundle", console=told()[0])
    monkeypatch.setattr(Deep, "exportable", False)
    with pytest.raises(ValueError, match=r"^not exportable: "):
        model_graph(model)
    monkeypatch.setattr(Deep, "exportable", True)
    monkeypatch.setattr(Deep, "anomaly_map", lambda self, x: torch.linalg.svd(x).S[..., None])
    with pytest.raises(ValueError, match=r"^not exportable: torch cannot write"):
        model_graph(model)
    assert not list(tmp_path.iterdir())


def test_an_export_is_refused_before_it_begins(run, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "open_inspector", lambda *_, **__: pytest.fail("worked before it looked"))
    (tmp_path / "taken").mkdir()
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="taken exists"):
            export(run, tmp_path / "taken", overwrite=overwrite)


@pytest.mark.slow
def test_a_bundle_is_no_run(run, tmp_path):
    export(run, tmp_path / "x.bundle", console=told()[0])
    with pytest.raises(ValueError, match="is a bundle already"):
        export(tmp_path / "x.bundle", tmp_path / "y.bundle")
    export(run, tmp_path / "x.bundle", parts=False, overwrite=True, console=told()[0])
    assert "parts.onnx" not in read_manifest(tmp_path / "x.bundle").files


def test_the_command_takes_known_precisions_only(run, tmp_path):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(job.command)
    done = CliRunner().invoke(app, [str(run), "--out", str(tmp_path / "x"), "--precision", "fp8"])
    assert done.exit_code == 2 and "fp32, fp16, int8" in done.output


@pytest.mark.slow
def test_a_killed_export_leaves_no_half_bundle(tmp_path):
    """Killed when its files begin to appear; the real command, from the real network."""
    normal, run, out = tmp_path / "normal", tmp_path / "run", tmp_path / "out" / "x.bundle"
    for i in range(3):
        write(normal / f"{i}.png", texture(i, 128, 200))
    params = {"width": 8, "code": 4, "patch": 64}
    train(normal, out=run, steps=2, params=params, device="cpu")
    command = [sys.executable, "-m", "pipelines.cli", "export", str(run), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not (out.parent.is_dir() and any(out.parent.iterdir())):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[0].decode()
    if out.exists():  # it was quicker than the kill
        assert load(out).manifest.files, said
    else:
        assert process.returncode == -signal.SIGKILL, said
        with pytest.raises(BundleError):
            load(out)
        export(run, out, console=told()[0])
        assert load(out).manifest.files
