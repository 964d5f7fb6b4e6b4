"""What a diagnosis consists of: figures, what they mean in words, and what there is to see; and its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lines:
    """Curves over a common axis; `marks` are values of it worth a vertical line."""

    title: str
    x: Sequence[float]
    y: Mapping[str, Sequence[float]]
    label: str
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Bars:
    """Groups of bars, one of each series per name."""

    title: str
    names: Sequence[str]
    heights: Mapping[str, Sequence[float]]
    label: str


@dataclass(frozen=True)
class Pictures:
    """Rows of images (H, W) in [-1, 1], each with a caption."""

    title: str
    rows: Sequence[Sequence[tuple[NDArray[np.floating], str]]]


Panel = Lines | Bars | Pictures


@dataclass(frozen=True)
class Finding:
    """What was measured, by name, what it means in sentences, and what there is to see."""

    title: str
    figures: Mapping[str, float]
    says: Sequence[str] = ()
    panels: Sequence[Panel] = ()


def markdown(name: str, findings: Sequence[Finding]) -> str:
    """The findings as a table each, with what they mean."""
    lines = [f"# Diagnosis of {name}", ""]
    for one in findings:
        lines += [f"## {one.title}", "", "| figure | value |", "|---|---|"]
        lines += [f"| {key} | {value:.4g} |" for key, value in one.figures.items()]
        lines += ["", *(f"- {text}." for text in one.says), *([""] if one.says else [])]
    return "\n".join(lines)


def to_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """By title: the figures by name, and the sentences under "says"."""
    return {one.title: {"figures": dict(one.figures), "says": list(one.says)} for one in findings}
