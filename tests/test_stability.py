"""Short trainings over settings and materials drawn at random end in finite maps."""

from __future__ import annotations

import pytest

from anomalib_gan import stability
from anomalib_gan.stability import MATERIALS, short_runs


@pytest.mark.slow
def test_no_short_training_ends_in_a_value_that_is_not_finite():
    found = list(short_runs(14))
    assert [short for short in found if short.trouble] == []
    assert len({short.material for short in found}) > len(MATERIALS) / 2
    assert {short.params["norm"] for short in found} == {"ssim", "l1", "l2"}


def test_each_depends_on_its_number_alone_and_trouble_is_told(monkeypatch):
    def broken(material, params, rng):
        raise FloatingPointError("loss is nan")

    monkeypatch.setattr(stability, "trained", broken)
    found = list(short_runs(6, seed=3))
    assert list(short_runs(3, seed=3)) == found[:3] and list(short_runs(3, seed=4)) != found[:3]
    assert all(short.trouble == "FloatingPointError: loss is nan" for short in found)
