"""What is measured on an image of fibres is what was drawn."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_gan.properties import PROPERTIES, measure, table

sys.path.insert(0, str(Path(__file__).parents[1] / "data_samples"))

import generate

SIDE, PITCH = 192, 40
WIDTHS, ANGLES = st.floats(4, 24), st.floats(0, 180, exclude_max=True)


def bars(width, angle, dark=-0.6, bright=0.7, pitch=PITCH):
    """Bars of that width every `pitch` px, at `angle` degrees from the rows downwards, with smooth edges."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    across = y * math.cos(math.radians(angle)) - x * math.sin(math.radians(angle))
    far = np.abs((across + 7) % pitch - pitch / 2)
    return dark + (bright - dark) * np.clip(width / 2 - far + 0.5, 0, 1)


def apart(a, b):
    """Degrees between two axes."""
    return abs((a - b + 90) % 180 - 90)


@settings(max_examples=60, deadline=None)
@given(WIDTHS, ANGLES)
def test_drawn_bars_are_measured_as_they_were_drawn(width, angle):
    found = measure(bars(width, angle))
    assert found.thickness == pytest.approx(width, abs=1)
    assert found.density == pytest.approx(width / PITCH, abs=0.05)  # a whole number of bars does not fit in
    assert apart(found.angle, angle) < 1.5 and found.coherence > 0.9
    assert found.orientation == pytest.approx(math.cos(2 * math.radians(angle)), abs=0.1)
    assert found.brightness == pytest.approx((bars(width, angle).mean() + 1) / 2)


@settings(max_examples=30, deadline=None)
@given(WIDTHS, ANGLES, st.floats(0.05, 1), st.floats(-0.3, 0.3))
def test_only_brightness_depends_on_light_and_contrast(width, angle, gain, offset):
    image = bars(width, angle)
    before, after = measure(image), measure(gain * image + offset)
    assert after.thickness == pytest.approx(before.thickness, abs=0.3)
    assert after.density == pytest.approx(before.density, abs=0.01)
    assert apart(after.angle, before.angle) < 0.1 and after.coherence == pytest.approx(before.coherence, abs=1e-3)
    assert after.brightness - 0.5 == pytest.approx(gain * (before.brightness - 0.5) + offset / 2, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(WIDTHS, ANGLES)
def test_a_quarter_turn_turns_the_orientation_and_nothing_else(width, angle):
    before, after = measure(bars(width, angle)), measure(np.rot90(bars(width, angle)).copy())
    assert apart(after.angle, before.angle) == pytest.approx(90, abs=1e-3)
    assert after.orientation == pytest.approx(-before.orientation, abs=1e-6)
    assert after.thickness == pytest.approx(before.thickness, abs=0.1)
    assert after.density == pytest.approx(before.density, abs=0.005)


@settings(max_examples=30, deadline=None)
@given(st.floats(4, 20), st.floats(2, 4), ANGLES)
def test_wider_bars_are_thicker_and_cover_more(width, more, angle):
    before, after = measure(bars(width, angle)), measure(bars(width + more, angle))
    assert after.thickness > before.thickness and after.density > before.density
    assert after.brightness > before.brightness


@pytest.mark.parametrize("radius", [3.0, 4.0, 5.0, 6.5, 8.0])
@pytest.mark.parametrize("angle", [0.0, 27.0, 90.0, 150.0])
def test_fibres_of_the_samples_are_as_thick_as_they_were_drawn(radius, angle):
    side, pile = 256, []
    for offset in range(-200, 201, 50):
        fibre = generate.Fibre(
            depth=0.05, angle=math.radians(angle), offset=offset, radius=radius, waves=(), nodes=(), shade=1.0,
            centre=(127.5, 127.5),
        )  # fmt: skip
        pile.append(fibre)
    picture = generate.expose(generate.render(pile, side, side), np.random.default_rng(0)) / 127.5 - 1
    found = measure(picture)
    assert found.thickness == pytest.approx(2 * radius, abs=1.0)
    assert apart(found.angle, angle) < 2 and found.coherence > 0.8
    assert found.density == pytest.approx(2 * radius / 50, abs=0.06)


def test_fibres_that_run_every_way_have_no_direction():
    rng = np.random.default_rng(0)
    found = measure(generate.draw(rng, 384, 512) / 127.5 - 1)
    assert found.coherence < 0.25 and abs(found.orientation) < 0.25
    crossed = np.maximum(bars(8, 20), bars(8, 110))
    assert measure(crossed).coherence < 0.05


def test_crossings_do_not_make_fibres_thick():
    assert measure(np.maximum(bars(8, 20), bars(8, 110))).thickness == pytest.approx(8, abs=0.8)


def test_where_there_is_nothing_there_is_no_fibre():
    assert table([np.full((32, 40), -0.5)]).tolist() == [[0.0, 0.0, 0.0, 0.25]]
    assert list(PROPERTIES) == ["thickness", "density", "orientation", "brightness"]
    assert table([]).shape == (0, 4)


def test_noise_is_not_taken_for_fibres():
    noise = np.random.default_rng(0).normal(0, 0.1, (SIDE, SIDE))
    clean, noisy = measure(bars(10, 30)), measure(bars(10, 30) + noise)
    assert noisy.thickness == pytest.approx(clean.thickness, abs=1.0)
    assert noisy.density == pytest.approx(clean.density, abs=0.02) and apart(noisy.angle, 30) < 2


def test_what_cannot_be_measured_is_refused_with_its_shape():
    for image in (np.zeros((4, 99)), np.zeros((3, 32, 32))):
        with pytest.raises(ValueError, match=r"shape \(.*\) cannot be measured: give \(H, W\)"):
            measure(image)
