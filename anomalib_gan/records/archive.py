"""All that the dashboard and `anomalib-gan records` ask of the results database, and what people write there."""

from __future__ import annotations

from anomalib_gan.records.drifting import Drifting, DriftReport
from anomalib_gan.records.labelling import Labelled, Labelling
from anomalib_gan.records.listing import EVERYTHING, Filter, Order, Page
from anomalib_gan.records.reviewing import Agreement, Box, Label, Reviewing
from anomalib_gan.records.statistics import Bin, Statistics, Throughput
from anomalib_gan.records.thresholds import Preview, Thresholds
from anomalib_gan.records.upkeep import Pruned, Upkeep

__all__ = [
    "EVERYTHING",
    "Agreement",
    "Archive",
    "Bin",
    "Box",
    "DriftReport",
    "Filter",
    "Label",
    "Labelled",
    "Order",
    "Page",
    "Preview",
    "Pruned",
    "Throughput",
]


class Archive(Statistics, Reviewing, Labelling, Thresholds, Drifting, Upkeep):
    """An open results database.

    | asked | module |
    |---|---|
    | `page`, `rows`, `count`, `thresholds_used`, `inspection`, `of_bytes`, `neighbours` | `listing` |
    | `batches`, `pictures`, `models`, `calibrations` | `listing` |
    | `totals`, `trend`, `throughput`, `histogram` | `statistics` |
    | `defect_positions`, `largest_defects`, `defect_sizes` | `statistics` |
    | `reviewed` | `reviewed` |
    | `comparison`, `comparisons`; `compare` is a function there | `comparing` |
    | `queue`, `waiting`, `ask`, `review`, `withdraw`, `reviews`, `reviewed_count` | `reviewing` |
    | `defect_types`, `agreement` | `reviewing` |
    | `labelled` | `labelling` |
    | `preview`, `changed`, `apply`, `rollback`, `activate`, `active`, `events`, `recover` | `thresholds` |
    | `drift` | `drifting` |
    | `prune`, `backup` | `upkeep` |

    Rows are detached: they can be kept and read after the call, but nothing more is loaded through them. Calls that
    write take the `User` and check the role themselves: PermissionError where it does not suffice. Several threads may
    use one archive.
    """

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
