"""What `anomalib-gan benchmark speed` measured, as Markdown: all of it, or as much as a README bears; rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib_gan.machine import GIB
from anomalib_gan.speed import SCORED, place

Report = Mapping[str, Any]
PARTS = {"decode": "decode", "inference": "inference", "post": "post", "writing": "files", "rows": "rows"}


def text(report: Report, *, short: bool = False) -> str:
    """The tables of what `speed.measure` found, with the "command" for it. `short`: only the rows that are looked at
    first."""
    rows = [row for row in report["rows"] if not short or chosen(row, report["rows"])]
    parts = [table(rows, report), *linear(report)]
    if rows and short and len(rows) < len(report["rows"]):
        parts.append(f"{len(rows)} of {len(report['rows'])} rows; the command below writes all of them.")
    parts += [peak_lines(report), scored(report), *large(report), single(report)]
    if not short:
        parts += [f"Left out: {line}." for line in report["left_out"]]
    parts += [f"    {report['command']}", origin(report["machine"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def chosen(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Is it at batch 1, or the largest batch, of the size that all is about; or another size with all threads?"""
    alike = [one for one in rows if one["device"] == row["device"]]
    most = max(one["threads"] for one in alike)
    middle = tuple(row["size"]) == SCORED
    largest = row["batch"] == max(one["batch"] for one in alike if one["size"] == row["size"])
    return (row["batch"] < 2 and (row["threads"] == most or middle)) or (middle and largest and row["threads"] == most)


def table(rows: Sequence[Mapping[str, Any]], report: Report) -> str:
    if not rows:
        return ""
    names = labels(report)
    lines = head("detector", "image", "batch", "on", "median, p95", "images/s", "Mpx/s", "memory", "GFLOP", "of peak")
    for row in rows:
        lines.append(
            line(
                names[row["path"]],
                size(row["size"]),
                row["batch"] or "1, tiles",
                place_of(row),
                f"{milliseconds(row['median_s'])}, {milliseconds(row['p95_s'])} ms",
                rate(row["images_per_s"]),
                rate(row["mpx_per_s"]),
                memory(row),
                "–" if row["gflop"] is None else f"{row['gflop']:.3g}",
                share(row, report),
            )
        )
    return "\n".join(lines)


def labels(report: Report) -> dict[str, str]:
    """What stands for each detector: its precision, with its folder's name where two are alike."""
    found = report["detectors"]
    alike = [label for label in found.values() if list(found.values()).count(label) > 1]
    return {path: f"{Path(path).name}, {label}" if label in alike else label for path, label in found.items()}


def share(row: Mapping[str, Any], report: Report) -> str:
    best = best_peak(report, place_of(row), row["label"])
    if best is None or row["gflop_per_s"] is None:
        return "–"
    return f"{row['gflop_per_s'] / best[1]:.0%}"


def best_peak(report: Report, where: str, label: str) -> tuple[str, float] | None:
    """(library, GFLOP/s) of the fastest product of matrices in a place; in half precision for fp16 on a GPU."""
    before, after = (moment.get(where, {}) for moment in report["peaks"])
    best = {name: max(before[name], after.get(name, 0.0)) for name in before if name != "copy"}
    halves = {name: value for name, value in best.items() if name.endswith("float16")}
    best = {name: value for name, value in best.items() if (name in halves) == (label == "fp16" and bool(halves))}
    return max(best.items(), key=lambda one: one[1]) if best else None


def peak_lines(report: Report) -> str:
    """The machine's own peak, before and after the table."""
    before, after = report["peaks"]
    if not before:
        return ""
    lines = [
        "Products of large matrices, best of 5, in GFLOP/s before and after the table; *of peak* is the share of the "
        "fastest. Memory is the process's peak:",
        "",
    ]
    for where, found in before.items():
        each = []
        for name, value in found.items():
            unit = " GB/s" if name == "copy" else ""
            each.append(f"{name} {value:.0f} and {after.get(where, {}).get(name, float('nan')):.0f}{unit}")
        lines.append(f"- {where}: {', '.join(each)}")
    return "\n".join(lines)


def linear(report: Report) -> list[str]:
    """Milliseconds per megapixel by size, at batch 1 with all threads."""
    rows, told = report["rows"], []
    for device in dict.fromkeys(row["device"] for row in rows):
        most = max(row["threads"] for row in rows if row["device"] == device)
        for path, name in labels(report).items():
            each = [
                f"{size(row['size'])}{' in tiles' * (not row['batch'])}: {1000 / row['mpx_per_s']:.3g}"
                for row in rows
                if (row["path"], row["device"], row["threads"]) == (path, device, most) and row["batch"] < 2
            ]
            if len(each) > 1:
                told.append(f"{name} on {place(device, most)}: {', '.join(each)}")
    return [f"Milliseconds per megapixel at batch 1: {'; '.join(told)}."] if told else []


def scored(report: Report) -> str:
    """The rate of `score` beside that of inference alone."""
    if not (found := report["scored"]):
        return ""
    names, one = labels(report), found[0]
    lines = [
        f"`score` with default outputs on {one['images']} images of {size(one['size'])}, from the first image to the "
        "report; the parts are milliseconds per image in threads that overlap:",
        "",
        *head("detector", "on", "images/s", "inference alone", "share", *PARTS.values(), "report", "memory"),
    ]
    for one in found:
        speed, pure = one["images"] / one["seconds"], None if one["pure_s"] is None else 1 / one["pure_s"]
        each = [f"{1000 * one['parts_s'].get(part, 0.0) / one['images']:.1f}" for part in (*PARTS, "report")]
        told = ("–", "–") if pure is None else (f"{pure:.1f}", f"{speed / pure:.0%}")
        lines.append(line(names[one["path"]], place_of(one), f"{speed:.1f}", *told, *each, memory(one)))
    return "\n".join(lines)


def large(report: Report) -> list[str]:
    return [
        f"A TIFF of {size(one['size'])} px, 8 bit, through `score` ({labels(report)[one['path']]}, {place_of(one)}): "
        f"{one['seconds']:.0f} s, peak memory {memory(one)}."
        for one in report["large"]
    ]


def single(report: Report) -> str:
    """One image file in a warm process, and as a command of its own."""
    if not report["single"]:
        return ""
    lines = [
        "One image, from the bytes of its file to verdict and defects:",
        "",
        *head("detector", "image", "warm, median", "p95", "parts of the warm call", "cold command", "on"),
    ]
    for one in report["single"]:
        parts = ", ".join(f"{part} {1000 * value:.0f} ms" for part, value in one["parts_s"].items())
        warm = (f"{1000 * one[key]:.0f} ms" for key in ("median_s", "p95_s"))
        lines.append(
            line(labels(report)[one["path"]], size(one["size"]), *warm, parts, f"{one['cold_s']:.1f} s", place_of(one))
        )
    return "\n".join(lines)


def origin(machine: Mapping[str, Any]) -> str:
    """Where and when it was measured."""
    gpu = machine["gpu"] or "no GPU"
    return f"{machine['date']}; {machine['processor']}, {machine['cores']} cores, {gpu}, {machine['system']}."


def head(*names: str) -> list[str]:
    return [line(*names), "|" + "---|" * len(names)]


def line(*cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def size(height_and_width: Sequence[int]) -> str:
    height, width = height_and_width
    return f"{width}x{height}"


def place_of(row: Mapping[str, Any]) -> str:
    return place(row["device"], row["threads"])


def milliseconds(seconds: float) -> str:
    value = 1000 * seconds
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def memory(row: Mapping[str, Any]) -> str:
    """Of the process and, on a GPU, of that."""
    told = ["–" if row["peak_bytes"] is None else f"{row['peak_bytes'] / GIB:.2f}"]
    if row.get("device_bytes") is not None:
        told.append(f"{row['device_bytes'] / GIB:.2f}")
    return " + ".join(told) + " GiB"


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """All that is known of each row of the table."""
    file = io.StringIO()
    flat = [
        {key: "x".join(map(str, value)) if isinstance(value, list | tuple) else value for key, value in row.items()}
        for row in rows
    ]
    writer = csv.DictWriter(file, list(flat[0]) if flat else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()
