"""The dashboard without a browser: who comes in, which files are reached, what the viewer is sent, what pages show."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import struct
import weakref
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import bundles as graphs
import cv2
import numpy as np
import onnx
import pytest
import streamlit as st
from hypothesis import given
from hypothesis import strategies as some
from streamlit.testing.v1 import AppTest

from anomalib_gan.records.access import User, add_user, remove_user
from anomalib_gan.records.naming import fit, store
from anomalib_gan.runtime import bundle
from anomalib_gan.runtime.calibration import Calibration
from anomalib_gan.runtime.heat import heat_range
from anomalib_gan.runtime.inspector import Inspector
from anomalib_gan.runtime.naming import Codes
from dashboard import access, detectors, garbage, sources, viewer
from dashboard.files import RefusedPathError, bundles, resolve
from dashboard.kept import Kept
from dashboard.looking import inspect, look
from dashboard.pages import PAGES, explore
from dashboard.settings import Settings
from dashboard.sources import Item, shown
from dashboard.text import plain
from dashboard.verdicts import banner, gauge
from dashboard.viewer import Event, Scene
from pipelines.dashboard import dashboard

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "tests/frozen/v1.bundle"
SAMPLES = ROOT / "data_samples"
DUST, GOOD = SAMPLES / "test/dust/000.png", SAMPLES / "test/good/000.png"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(BUNDLE, tmp_path / "models/samples.bundle")
    return tmp_path / "models"


def started() -> None:
    """AppTest runs this by its source, far from the folder pages/, which it would take for its own."""
    from dashboard.app import main

    main()


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch):
    """The app as the command starts it, on an address, with settings."""

    def start(address: str | None = "127.0.0.1", **known: Any) -> AppTest:
        access.bound_address.cache_clear()
        monkeypatch.setattr(st, "get_option", lambda name: {"server.address": address}[name])
        for name, value in Settings(**known).to_environment().items():
            monkeypatch.setenv(name, value)
        return AppTest.from_function(started, default_timeout=60).run()

    yield start
    access.bound_address.cache_clear()


def words(app: AppTest) -> str:
    """All text of a page."""
    kinds = (app.error, app.info, app.warning, app.markdown, app.caption, app.subheader)
    return "\n".join(
        [*(str(one.value) for kind in kinds for one in kind), *(one.proto.body for one in app.get("html"))]
    )


def listed_in(app: AppTest) -> list[dict[str, str]]:
    """The rows of the list of defects by the names of its columns, as markup."""
    (table,) = (one.proto.body for one in app.get("html") if "data-defect" in one.proto.body)
    names = re.findall("<th>(.*?)</th>", table)
    rows = re.findall("<tr data-defect.*?</tr>", table)
    return [
        dict(zip(names, [re.sub("</?button.*?>", "", one) for one in re.findall("<td>(.*?)</td>", row)], strict=True))
        for row in rows
    ]


# --- who comes in --------------------------------------------------------------------------------------------------


def test_on_this_machine_alone_whoever_sits_there_is_let_in(app, models) -> None:
    opened = app(models=(str(models),))
    assert not opened.exception and "Drop images" in words(opened)


@pytest.mark.parametrize(
    "address", [None, "0.0.0.0", "::", "192.168.1.7", "::ffff:127.0.0.1", "unix:///tmp/s", "no.such."]
)
def test_on_any_other_address_nobody_is_let_in_without_a_users_file(app, models, address) -> None:
    closed = app(address, models=(str(models),))
    assert "stays closed" in words(closed) and "Drop images" not in words(closed) and not closed.selectbox
    assert "stays closed" in words(app(address, models=(str(models),), users=str(models / "missing.json")))


def test_a_users_file_that_is_gone_lets_nobody_in(app, models) -> None:
    closed = app(models=(str(models),), users=str(models / "missing.json"))
    assert "is missing" in words(closed) and not closed.selectbox


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_with_a_users_file_people_sign_in_and_are_signed_out_once_they_are_taken_out(app, models, address) -> None:
    file = models.parent / "users.json"
    add_user(file, "Ada", "correct horse", "operator")
    opened = app(address, models=(str(models),), users=str(file))
    assert [one.label for one in opened.text_input] == ["Name", "Password"] and not opened.selectbox

    def sign_in(name: str, password: str) -> str:
        opened.text_input[0].set_value(name)
        opened.text_input[1].set_value(password)
        opened.button[0].click().run()
        return words(opened)

    assert "wrong" in sign_in("Ada", "guess") and "wrong" in sign_in("Bob", "correct horse")
    assert "Drop images" in sign_in("Ada", "correct horse") and "Ada, operator" in words(opened)
    add_user(file, "Ada", "correct horse", "engineer")  # another role is another person: sign in again
    assert "Drop images" not in words(opened.run())
    assert "Ada, engineer" in sign_in("Ada", "correct horse")
    remove_user(file, "Ada")
    assert "Drop images" not in words(opened.run())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_page_calls_the_guard_itself(page, monkeypatch) -> None:
    from dashboard import app as main

    class Closed(Exception):  # noqa: N818
        pass

    def closed() -> User:
        raise Closed

    monkeypatch.setattr(main, "guard", closed)
    with pytest.raises(Closed):
        main.show(page)


def test_the_command_refuses_an_open_address_without_users_and_what_is_not_there(tmp_path) -> None:
    with pytest.raises(ValueError, match="reachable from other machines"):
        dashboard(address="0.0.0.0")
    folders = ({"models": ["nowhere"]}, {"images": ["nowhere"]}, {"runs": "nowhere"})
    for wrong in (*folders, {"users": "nowhere"}, {"cameras": ["nowhere.avi"]}):
        with pytest.raises(ValueError, match="nowhere"):
            dashboard(**wrong)


# --- which files can be reached ------------------------------------------------------------------------------------


@given(some.text(alphabet=some.sampled_from("ab./\\:~\0\n $%é"), max_size=12) | some.text(max_size=20))
def test_no_path_leads_out_of_a_configured_folder(relative) -> None:
    root = ROOT / "data_samples"
    try:
        found = resolve(root, relative)
    except RefusedPathError:
        return
    assert found.is_relative_to(root) and found.exists()


@pytest.mark.parametrize(
    "relative",
    ["", ".", "..", "../pyproject.toml", "test/../../pyproject.toml", "/etc/passwd", "C:/x", "C:x", "\\\\host\\x",
     "test\\good", "test//good", "test/good/", "missing.png", "a\0b", "x" * 5000],
)  # fmt: skip
def test_traversal_absolute_paths_and_what_is_missing_are_refused(relative) -> None:
    with pytest.raises(RefusedPathError):
        resolve(SAMPLES, relative)


def test_links_that_lead_out_are_refused_and_links_within_are_followed(tmp_path) -> None:
    root = tmp_path / "images"
    (root / "deep").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "deep/a.png").write_bytes(b"x")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    (root / "in.png").symlink_to(root / "deep/a.png")
    assert resolve(root, "in.png") == resolve(root, "deep/a.png") == (root / "deep/a.png").resolve()
    for relative in ("out.png", "up/secret.png", "up", "loop"):
        with pytest.raises(RefusedPathError):
            resolve(root, relative)


def test_a_bundle_behind_a_link_that_leads_out_is_refused(tmp_path, models) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x.bundle").symlink_to(BUNDLE)
    assert list(bundles([models])) == ["samples"]
    with pytest.raises(RefusedPathError):
        bundles([tmp_path / "other"])


@given(some.text(max_size=300))
def test_names_from_elsewhere_stay_one_short_line_and_no_markup(name) -> None:
    assert shown(name).isprintable() and len(shown(name)) <= 120
    text = plain(name)
    bare = text.replace("\\\\", "").replace("\\", "\0")
    assert not any(one in "<>[]()*_`$:#&!|~" and bare[at - 1] != "\0" for at, one in enumerate(bare) if at)
    assert "\n" not in text


# --- what the viewer is sent ---------------------------------------------------------------------------------------


def unpacked(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])

    def picture(place: list[int]) -> Any:
        found = data[4 + length + place[0] :][: place[1]]
        return cv2.imdecode(np.frombuffer(found, np.uint8), cv2.IMREAD_UNCHANGED)

    return header, {name: picture(place) for name, place in header["layers"].items() if name != "colours"}


def test_an_image_reaches_the_browser_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    image, heat = rng.integers(0, 255, (2, 37, 53), np.uint8)
    scene = Scene("a", "label", image, heat, (0.0, 1.0), image[::-1])
    header, found = unpacked(viewer.packed({"crop": None}, {"layers": scene.layers}))
    assert (found["image"] == image).all() and (found["heat"] == heat).all()
    assert (found["reconstruction"] == image[::-1]).all()
    assert header["layers"]["colours"][1] == 1024


@given(some.integers(1, 40_000), some.integers(1, 40_000))
def test_a_message_is_bounded_however_large_the_image_is(height, width) -> None:
    step = viewer.reduction(height, width)
    assert -(-height // step) * -(-width // step) <= viewer.WHOLE
    assert step == 1 or -(-height // (step - 1)) * -(-width // (step - 1)) > viewer.WHOLE


def test_a_single_hot_pixel_survives_the_reduction() -> None:
    heat = np.zeros((4001, 3003), np.uint8)
    heat[4000, 3002] = 200
    assert viewer.largest_of(heat, 3).max() == 200 and viewer.mean_of(heat, 3).shape == (1334, 1001)


@given(some.floats(-5, 5), some.floats(0.1, 5))
def test_heat_is_on_the_one_fixed_scale_and_nothing_where_there_is_no_value(low, span) -> None:
    scale = (low, low + span)
    first, last = heat_range(scale)
    map = np.array([[np.nan, first - 1, first, (first + last) / 2, last, last + 1]], np.float32)
    assert viewer.warmed(map, scale)[0].tolist() == pytest.approx([0, 1, 1, 128, 255, 255], abs=1)
    assert viewer.colours()[3] == 0  # no value covers nothing


def test_events_are_taken_once_in_order_and_nothing_else_is(monkeypatch) -> None:
    monkeypatch.setattr(st, "session_state", {})

    def log(*events: Any, mount: str = "m") -> Any:
        return {"log": {"mount": mount, "events": list(events)}}

    def event(sequence: int, kind: str, **more: Any) -> dict[str, Any]:
        return {"sequence": sequence, "kind": kind, "image": "a", **more}

    box = event(2, "box", box=[1, 2, 30, 40])
    assert viewer._fresh("v", log(event(1, "next"), box)) == [
        Event("next", "a", None), Event("box", "a", (1, 2, 30, 40))
    ]  # fmt: skip
    assert viewer._fresh("v", log(event(1, "next"), box, event(3, "next"))) == [Event("next", "a", None)]
    assert viewer._fresh("v", log(event(1, "accept"), mount="reloaded")) == [Event("accept", "a", None)]
    hostile = [None, {}, {"log": 1}, log(7), log(event(9, "format")), log(event(9, "box")), log(event("9", "next")),
               log(event(9, "box", box=[5, 5, 1, 1])), log(event(9, "box", box=["a", 0, 1, 1])),
               log(event(9, "box", box=[0, 0, float("inf"), 1])), log(event(9, "next", box=[0, 0, 5, 5]))]  # fmt: skip
    assert all(viewer._fresh("v", state) == [] for state in hostile)


def test_a_close_look_is_answered_with_pixels_of_that_part_alone() -> None:
    scene = Scene("a", "label", np.zeros((3000, 3000), np.uint8))
    assert scene.step == 2
    assert viewer._view({"view": {"image": "a", "box": [10, 20, 110, 220]}}, scene) == (10, 20, 110, 220)
    for wrong in ({"image": "b", "box": [0, 0, 9, 9]}, {"image": "a", "box": [0, 0, 3001, 9]}, {"image": "a"}, None):
        assert viewer._view({"view": wrong}, scene) is None
    (picture,) = unpacked(viewer.packed({"crop": None}, {"layers": scene.crop((10, 20, 110, 220))}))[1].values()
    assert picture.shape == (100, 200)


def test_an_image_is_inspected_once_for_all_sessions(monkeypatch) -> None:
    detector, item = detectors.load(BUNDLE), Item("shared", "dust", DUST.read_bytes())
    monkeypatch.setattr("dashboard.looking.PICTURES", kept := Kept())
    with pytest.raises(RefusedPathError):
        look(detector, Item("missing", "missing", root=str(DUST.parent), relative="missing.png"))
    seen = look(detector, item)
    assert look(detector, item) is seen and kept.bytes == seen.scene.bytes == sum(map(len, seen.scene.layers.values()))
    again = look(detector, item, True)
    assert look(detector, item) is look(detector, item, True) is again and kept.bytes == again.scene.bytes


def test_a_file_that_changed_is_inspected_anew(tmp_path) -> None:
    detector, file = detectors.load(BUNDLE), tmp_path / "part.png"
    item = Item(f"file {file}", "part", root=str(tmp_path), relative="part.png")
    scores = []
    for path in (DUST, GOOD):
        shutil.copy(path, file)
        os.utime(file, (len(scores), len(scores)))
        scores.append(look(detector, item).found.score)
    assert scores[0] != scores[1]


@given(some.lists(some.tuples(some.integers(0, 5), some.integers(0, 40)), min_size=1))
def test_what_is_kept_stays_within_its_limit_and_is_the_latest(puts) -> None:
    kept, order = Kept(60), {}
    for key, size in puts:
        kept.put(key, (key, size), size)
        order.pop(key, None)
        order[key] = size
        there = [one for one in order if kept.get(one) is not None]
        assert kept.bytes == sum(order[one] for one in there) <= 60
        assert there == list(order)[-len(there) :] and kept.get(key) == (key, size)
        dropped = list(order)[: -len(there)]
        assert not dropped or kept.bytes + order[dropped[-1]] > 60
        for one in dropped:
            del order[one]
    kept.put("large", 1, 1000)
    assert kept.bytes == 1000 and kept.get("large") == 1 and kept.get(puts[-1][0]) is None


# --- verdicts ------------------------------------------------------------------------------------------------------


def test_verdicts_differ_by_word_colour_and_shape() -> None:
    looks = [banner(verdict) for verdict in ("accept", "review", "reject", None)]
    assert ["ACCEPT" in looks[0], "REVIEW" in looks[1], "REJECT" in looks[2], "NO VERDICT" in looks[3]] == [True] * 4
    for mark in ("background:#", "clip-path:"):
        assert len({look.split(mark)[1].split(";")[0] for look in looks}) == 4


@given(some.floats(-1e6, 1e6), some.lists(some.floats(-1e3, 1e3), min_size=1, max_size=300))
def test_the_gauge_keeps_every_mark_on_the_line(score, normal) -> None:
    calibration = Calibration.fit(normal, normal)
    marks = [float(part.split("%")[0]) for part in gauge(score, calibration).split("absolute;left:")[1:]]
    assert marks and all(0 <= mark <= 100 for mark in marks)


# --- detectors and pages -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector() -> detectors.Detector:
    return detectors.load(BUNDLE)


def test_an_image_is_judged_as_by_the_inspector(detector) -> None:
    item, plainly = Item("a", "dust", DUST.read_bytes()), Inspector.load(BUNDLE, "cpu")(DUST)
    for reconstructed in (False, True):
        seen = inspect(detector, item, reconstructed)
        found = seen.found
        assert (found.verdict, found.score, found.defects) == (plainly.verdict, plainly.score, plainly.defects)
        assert ("reconstruction" in found.timing) is reconstructed is ("reconstruction" in seen.scene.layers)
        assert seen.scene.more is not reconstructed


def test_parts_are_the_same_in_tiles(detector) -> None:
    tiled = detectors.Detector(
        detector.path, detector.bundle, Inspector.load(BUNDLE, "cpu", tile=128), detector.card, ()
    )  # fmt: skip
    with detector.open(DUST, "dust") as picture:
        whole, cut = detector.parts(picture), tiled.parts(picture)
    assert set(whole) == {"reconstruction", "critic", "residual", "likelihood"}
    for name, part in whole.items():
        assert part.shape == (384, 512, 1)
        np.testing.assert_allclose(cut[name], part, atol=1e-3 * np.ptp(part))


def test_the_components_mixed_at_the_bundles_alpha_are_the_detectors_map(detector) -> None:
    weights = detector.mixture()
    assert weights == {"critic": 0.75, "residual": 0.25, "likelihood": 0.1}
    with detector.open(DUST, "dust") as picture:
        map, parts = detector.inspector(picture).map, detector.parts(picture)
    components = {name: part[..., 0] for name, part in parts.items() if name != "reconstruction"}
    assert np.abs(explore.mixed(components, weights, 0.75) - map).max() < 1e-3
    np.testing.assert_array_equal(
        explore.mixed(components, weights | {"likelihood": 0.0}, 1.0), components["critic"]
    )  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(16, 16), (100, 333), (512, 768)])
def test_samples_have_the_size_that_was_asked_for_and_follow_from_the_seed(detector, height, width) -> None:
    first = explore.sampled(detector, height, width, 3)
    assert first.shape == (height, width, 1) and first.min() >= 0 and first.max() <= 1
    assert (explore.sampled(detector, height, width, 3) == first).all()
    assert (explore.sampled(detector, height, width, 4) != first).any()


def test_samples_are_drawn_by_the_prior_of_a_bundle_that_has_one(detector, tmp_path) -> None:
    plain = detector.prior(5, 6, 0, 0.5)
    assert plain.shape == (1, detector.codes(), 5, 6) and 0.3 < plain.std() < 0.7
    channels = detector.codes()
    weight = np.zeros((channels, channels, 3, 3), np.float32)
    weight[np.arange(channels), np.arange(channels)] = 1 / 9
    nodes = [graphs.node("Conv", "z w", "mean", kernel_shape=[3, 3]), graphs.node("Add", "mean c", "code")]
    graph = graphs.model(
        nodes, {"w": weight, "c": np.float32(7)}, {"z": ("N", channels, "h", "w")}, outputs=["code"]
    )  # fmt: skip
    made = bundle.load(BUNDLE)
    kept = {name: made.read(name) for name in made.manifest.files if name != "model.onnx"}
    files = {"model.onnx": made.model, **kept, "prior.onnx": graph.SerializeToString()}
    bundle.write(tmp_path / "x.bundle", made.manifest, files)
    found = detectors.load(tmp_path / "x.bundle")
    code = found.prior(5, 6, 0, 1.0)
    assert code.shape == (1, channels, 5, 6) and abs(code.mean() - 7) < 0.5 and code.std() < 0.6
    assert found.prior(5, 6, 0, 0.0) == pytest.approx(7)
    assert explore.sampled(found, 64, 96, 0).shape[:2] == (64, 96)

    graph.graph.node[0].attribute.append(onnx.helper.make_attribute("strides", [2, 2]))
    bundle.write(tmp_path / "y.bundle", made.manifest, files | {"prior.onnx": graph.SerializeToString()})
    with pytest.raises(bundle.BundleError, match="31 x 31 codes of 64 x 64"):
        detectors.load(tmp_path / "y.bundle").prior(5, 6, 0, 1.0)


def test_between_two_images_the_ends_are_their_reconstructions(detector) -> None:
    a, b = Item("a", "a", DUST.read_bytes()), Item("b", "b", GOOD.read_bytes())
    drawn = [explore.interpolated(detector, a, b, share)[1].astype(float) for share in (0.0, 0.5, 1.0)]
    with detector.open(GOOD, "b") as picture:
        again = detector.parts(picture)["reconstruction"][..., 0]
    assert np.corrcoef(drawn[2].ravel(), again.ravel())[0, 1] > 0.9
    assert np.corrcoef(drawn[0].ravel(), again.ravel())[0, 1] < 0.5
    assert (drawn[1] != drawn[0]).any() and (drawn[1] != drawn[2]).any()


def test_a_recording_stands_in_for_a_camera_and_begins_again_at_its_end(tmp_path) -> None:
    file = str(tmp_path / "line.avi")
    writer = cv2.VideoWriter(file, cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for level in (40, 200):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    camera = sources.Camera(file)
    means = [round(float(camera.grab().mean())) for _ in range(4)]
    assert camera.grab().shape[:2] == (48, 64)
    assert means == pytest.approx([40, 200, 40, 200], abs=6)
    (tmp_path / "no.avi").write_bytes(b"no film")
    with pytest.raises(sources.CameraError, match=r"camera no\.avi gives no picture"):
        sources.Camera(str(tmp_path / "no.avi")).grab()


def test_the_page_inspects_a_folder_and_lives_on_after_a_broken_file(app, models, tmp_path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(DUST.read_bytes()[:5000])
    shutil.copy(DUST, folder / "b [x](http:evil).png")
    page = app(models=(str(models),), images=(str(folder),))
    page.segmented_control(key="way").set_value("Folder").run()
    assert not page.exception and "cannot be inspected" in words(page) and "truncated" in words(page)
    page.selectbox(key="images 0").set_value(1).run()
    assert not page.exception and not page.error and "REJECT" in words(page)
    assert "(http:evil)" not in words(page)
    found = listed_in(page)
    assert [row["no."] for row in found] == [str(one) for one in range(1, len(found) + 1)] and found
    assert all(int(row["area px"].replace(",", "")) > 0 for row in found)


def test_a_bundle_that_names_types_lists_them_and_tells_how_far_they_can_be_trusted(app, models) -> None:
    path = models / "samples.bundle"
    made = bundle.load(path)
    rng, types = np.random.default_rng(0), ["b <i>"] * 10 + ["a *x*"] * 15
    x = rng.normal(size=(25, Codes(made).features)) + np.array([kind == "b <i>" for kind in types])[:, None]
    fitted = fit(x.astype(np.float32), types, [str(k) for k in range(25)], made.manifest)
    sure = replace(fitted.types, probability=0.0, distance=1e9)
    store(path, replace(fitted, types=sure))
    page = app(models=(str(models),))
    page.file_uploader(key="files").set_value([("dust.png", DUST.read_bytes(), "image/png")]).run()
    assert not page.exception and not page.error
    found = {row["type"] for row in listed_in(page)}
    assert found and found <= {"a *x*", "b &lt;i&gt;"}
    assert plain("Types (a *x*, b <i>): of 25 labelled defects,") in words(page)
    assert plain(f"{sure.accuracy:.0%} were named right") in words(page)


def test_dropped_files_are_judged_and_none_of_their_names_is_a_path(app, models) -> None:
    page = app(models=(str(models),))
    page.file_uploader(key="files").set_value([("../../etc/passwd.png", GOOD.read_bytes(), "image/png")]).run()
    assert not page.exception and not page.error
    assert any(word in words(page) for word in ("ACCEPT", "REVIEW", "REJECT"))


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(app, models, monkeypatch) -> None:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(100)
    page = app(models=(str(models),))
    page.file_uploader(key="files").set_value([("bomb.png", bomb, "image/png")]).run()
    assert "more than the" in words(page).replace("\\", "") and not page.exception


def test_without_a_bundle_the_page_says_what_to_do(app, tmp_path) -> None:
    assert "--models" in words(app()) and "no bundle" in words(app(models=(str(tmp_path),)))


def test_a_damaged_bundle_is_told_and_the_page_lives_on(app, models) -> None:
    (models / "samples.bundle/model.onnx").write_bytes(b"damaged")
    page = app(models=(str(models),))
    assert not page.exception and "copy the bundle again" in words(page)


def test_a_recalibrated_bundle_is_opened_anew(models) -> None:
    path = models / "samples.bundle"
    before = detectors.load(path)
    assert detectors.load(path) is before
    os.utime(path / "manifest.json", ns=(1, 1))
    assert detectors.load(path) is not before


def explored() -> None:
    import streamlit as st  # noqa: F401 (AppTest runs the source of this function by itself)

    from anomalib_gan.records.access import User
    from dashboard.pages import explore

    explore.page(User("local", "engineer"))


def test_explore_samples_mixes_and_goes_between_images(app, models) -> None:
    app(models=(str(models),), images=(str(SAMPLES / "test"),))
    page = AppTest.from_function(explored, default_timeout=60).run()
    assert not page.exception and not page.error and "any size" in words(page)
    page.segmented_control(key="explore").set_value(explore.MADE_OF).run()
    page.segmented_control(key="way").set_value("Folder").run()
    assert not page.exception and not page.error and "own alpha is 0.75" in words(page)
    page.slider[0].set_value(0.2).run()
    assert not page.exception
    page.segmented_control(key="explore").set_value(explore.BETWEEN).run()
    assert not page.exception and not page.error and "t = 0.50" in words(page)


def test_explore_says_which_part_of_a_bundle_is_absent(app, models, tmp_path) -> None:
    made = bundle.load(BUNDLE)
    bare = tmp_path / "bare/x.bundle"
    bundle.write(bare, made.manifest, {"model.onnx": made.model})
    app(models=(str(bare.parent),))
    page = AppTest.from_function(explored, default_timeout=60).run()
    assert "no `generator.onnx`" in words(page) and "--generator" in words(page) and not page.exception
    page.segmented_control(key="explore").set_value(explore.BETWEEN).run()
    assert "no `parts.onnx` and no `generator.onnx`" in words(page)


def test_a_mixture_that_the_bundle_does_not_tell_is_not_made_up(detector) -> None:
    untold = SimpleNamespace(manifest=SimpleNamespace(spec={"params": {"alpha": None}}), card={})
    assert detectors.Detector.mixture(untold) is None
    found = SimpleNamespace(manifest=untold.manifest, card={"found": {"alpha": 0.9}})
    assert detectors.Detector.mixture(found) == pytest.approx({"critic": 0.9, "residual": 0.1, "likelihood": 0.0})


def test_modules_are_set_aside_and_what_comes_later_is_still_collected(monkeypatch) -> None:
    monkeypatch.setattr(garbage, "_known", 0)
    try:
        garbage.set_modules_aside()
        frozen = gc.get_freeze_count()
        assert frozen > 10_000
        held = type("Held", (), {})()
        held.itself = held
        gone = weakref.ref(held)
        del held
        gc.collect()
        garbage.set_modules_aside()
        assert gone() is None and gc.get_freeze_count() <= frozen  # nothing was imported, so nothing is set aside
    finally:
        gc.unfreeze()


def test_settings_survive_the_environment_and_strangers_are_refused(monkeypatch) -> None:
    from dashboard import settings

    known = Settings("x.db", ("/a b", "/c"), ("/ü",), ("0", "/x.avi"), "/users.json")
    for name, value in known.to_environment().items():
        monkeypatch.setenv(name, value)
    assert settings.read() == known
    monkeypatch.setenv(settings.VARIABLE, '{"shell": "rm"}')
    with pytest.raises(ValueError, match="shell"):
        settings.read()
    assert PurePosixPath(known.models[0]).is_absolute()
