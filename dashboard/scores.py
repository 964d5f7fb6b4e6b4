"""Scores of normal images beside those of production, over one set of bins."""

from __future__ import annotations

import numpy as np
import streamlit as st

from anomalib_gan.records.archive import Archive, Filter
from anomalib_gan.runtime.calibration import Calibration
from dashboard import charts

BINS = 40


def chart(records: Archive, filter: Filter, calibration: Calibration, lines: dict[str, float]) -> None:
    """Draws the histogram; `filter` says which of the model's images are production."""
    worst = records.page(filter, limit=1, order="worst").rows
    highest = max(calibration.scores[-1], *lines.values(), *(one.score for one in worst if one.score is not None))
    lowest = min(calibration.scores[0], *lines.values())
    room = max(highest - lowest, 1e-6)
    edges = [float(one) for one in np.linspace(lowest - 0.25 * room, highest + 0.02 * room, BINS + 1)]
    normal = np.histogram(calibration.scores, edges)[0].astype(np.int64)
    production = records.histogram(filter, edges)
    st.vega_lite_chart(spec=charts.scores(edges, normal, production, lines))
