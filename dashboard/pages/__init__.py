"""The pages, in the order of the menu. A new one is a file here, with a function `page(user)`, and a line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from anomalib_gan.records.access import User
from dashboard.pages import explore, inspect, models, production, reports, review, thresholds


class Page(NamedTuple):
    title: str
    path: str  # in the browser's address
    show: Callable[[User], None]


PAGES = (
    Page("Inspect", "inspect", inspect.page),
    Page("Review queue", "review", review.page),
    Page("Production", "production", production.page),
    Page("Thresholds", "thresholds", thresholds.page),
    Page("Models", "models", models.page),
    Page("Reports", "reports", reports.page),
    Page("Explore", "explore", explore.page),
)
