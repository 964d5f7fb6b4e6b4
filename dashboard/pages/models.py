"""Models: what each bundle is, how it came about and how good it is; two side by side; which of them is in use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.runtime.bundle import Manifest, fingerprint
from anomalib_gan.runtime.calibration import Calibration
from dashboard import settings
from dashboard.beside import beside
from dashboard.cards import NOTHING, document, entry, evaluations, items, lasting, moment, number, picture, table, told
from dashboard.choosing import InUse, in_use, marked, offered
from dashboard.detectors import Detector, load, manifest
from dashboard.results import listed, local, open_archive
from dashboard.retraining import retraining
from dashboard.switching import switching
from dashboard.text import plain

PARTS = ("In use", "Card", "Calibrations", "Evaluation", "Curves and samples", "Side by side")
USED, CARD, CALIBRATIONS, EVALUATION, CURVES, BESIDE = PARTS
FIGURES = {
    "auroc": "pixel AUROC",
    "ap": "pixel AP",
    "aupro": "pixel AUPRO at 30 % FPR",
    "f1_max": "pixel F1-max",
    "tpr_at_5_fpr": "pixel TPR at 5 % FPR",
}
SHOWN = ("params", "model", "bits", "white", "init_from", "reviewed")
"""Settings of a training that have a line of their own."""
LISTED = 200


def page(user: User) -> None:
    found = offered()
    if found is None:
        return
    used = in_use(found)
    names = list(found)
    with st.sidebar:
        # Its own choice: whoever looks at a model here does not inspect with it on the other pages.
        name = st.selectbox(
            "Model", names, index=names.index(used.name or names[0]), format_func=lambda one: marked(one, used),
            key="model shown",
        )  # fmt: skip
    name = name if name in found else names[0]
    ways: dict[str, Callable[[], None]] = {
        USED: lambda: in_use_now(found, used, name, user),
        CARD: lambda: card(load(found[name])),
        CALIBRATIONS: lambda: calibrations(load(found[name])),
        EVALUATION: lambda: evaluation(load(found[name])),
        CURVES: lambda: curves(load(found[name])),
        BESIDE: lambda: beside(found, used, name),
    }
    way = st.segmented_control("About", list(ways), default=USED, key="models", label_visibility="collapsed")
    try:
        ways[way or USED]()
    except (ValueError, OSError, MemoryError) as error:
        st.error(plain(str(error) or "not enough memory"))


def time(text: str) -> str:
    """A stated time as the person's own; as it stands where it is none."""
    found = moment(text)
    return text if found is None else local(found)


# --- all of them, and which is in use ------------------------------------------------------------------------------


def in_use_now(found: Mapping[str, Path], used: InUse, name: str, user: User) -> None:
    if used.event is not None:
        event = used.event
        known = used.name or f"{event.details.get('name', '')}, which is in none of the folders given"
        st.markdown(
            f"**In use: {plain(known)}** ({event.model[:12]}) since {local(event.at)}, by {plain(event.who)}: "
            f"{plain(event.reason)}"
        )
    overview(found, used)
    if not settings.read().db:
        st.info("Which model is in use stands in the results database: start with `--db FILE` to choose one.")
        return
    records = open_archive(settings.read().db)
    switching(records, user, found, used, name)
    retraining(load(found[name]), user)


def overview(found: Mapping[str, Path], used: InUse) -> None:
    rows = []
    for name, path in found.items():
        try:
            one = manifest(path)
        except (ValueError, OSError) as error:
            st.error(plain(str(error)))
            continue
        limits = one.calibration
        rows.append(
            [name, "in use" if name == used.name else "", str(one.spec["name"]), one.precision, one.hash[:12],
             time(one.created),
             *(["not calibrated", "", ""] if limits is None else
               [f"{limits.review:.4g}", f"{limits.reject:.4g}", f"{limits.pixel:.4g}"])]
        )  # fmt: skip
    head = ("model", "", "kind", "precision", "hash", "exported", "review above", "reject above", "defect above")
    st.markdown(table(head, rows, right=(6, 7, 8)))
    st.caption("Scores and thresholds of two models do not compare: each has a scale of its own.")


# --- one of them ---------------------------------------------------------------------------------------------------


def card(chosen: Detector) -> None:
    found = chosen.card
    for warning in items(found, "warnings"):
        st.warning(plain(told(warning)))
    if not found:
        st.info("This bundle has no card, so how it was trained is not known.")
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown(table(("training", ""), list(trained(found).items())))
    with right:
        st.markdown(table(("detector", ""), list(made(chosen).items())))
    images = items(found, "data", "images")
    if images:
        odd = {told(entry(one, "path")): one for one in items(found, "oddest") if entry(one, "odd") is True}
        with st.expander(f"The {len(images)} training images"):
            paths = [told(entry(one, "path")) for one in images]
            st.dataframe(
                {
                    "image": paths,
                    "width px": [number(entry(one, "width")) for one in images],
                    "height px": [number(entry(one, "height")) for one in images],
                    "SHA-256": [told(entry(one, "sha256")) for one in images],
                    "unlike the rest": [told(entry(odd.get(path), "reasons")) if path in odd else "" for path in paths],
                },
                hide_index=True,
            )


def trained(found: Mapping[str, Any]) -> dict[str, str]:
    """What the card says of the training."""
    images, given = items(found, "data", "images"), entry(found, "settings")
    reviewed = sum(entry(one, "reviewed") is True for one in images)
    sizes = {f"{told(entry(one, 'width'))} x {told(entry(one, 'height'))}" for one in images}
    pixel, bits = number(entry(found, "data", "pixel_size")), entry(given, "bits")
    white = f"{told(entry(found, 'data', 'white'))}{'' if bits is None else f', {told(bits)} bits'}"
    others, begun_with = given if isinstance(given, Mapping) else {}, entry(found, "init_from", "run")
    return {
        "images": f"{len(images)} of {told(entry(found, 'data', 'folder'))}" if images else NOTHING,
        **({"of these by their reviews": str(reviewed)} if reviewed else {}),
        "sizes, px": ", ".join(sorted(sizes)[:8]) or NOTHING,
        "pixel size": NOTHING if pixel is None else f"{pixel:.4g} \N{MICRO SIGN}m",
        "white": white,
        "begun": time(told(entry(found, "started"))),
        "duration": f"{lasting(entry(found, 'duration_s'))}, {told(entry(found, 'steps'))} steps",
        **({} if begun_with is None else {"begun with the weights of": told(begun_with)}),
        "settings given": told(entry(given, "params")),
        "found from the images": told(entry(found, "found")),
        "other settings": told({key: one for key, one in others.items() if key not in SHOWN}),
        "versions": told(entry(found, "versions")),
        "machine": told(entry(found, "machine")),
    }


def made(chosen: Detector) -> dict[str, str]:
    """What the manifest says of the detector."""
    one: Manifest = chosen.manifest
    size = sum(file.bytes for name, file in one.files.items() if name.endswith(".onnx"))
    graphs = [name for name in one.files if name.endswith(".onnx")]
    return {
        "name": one.name,
        "kind": str(one.spec["name"]),
        "parameters": told(one.spec["params"]),
        "precision": one.precision,
        "images": f"{'grey' if one.channels == 1 else 'colour'}, from {one.smallest} x {one.smallest} px",
        "sees around a pixel": f"{one.halo} px",
        "map on normal images": f"{one.map_scale[0]:.4g} to {one.map_scale[1]:.4g}",
        "graphs": f"{', '.join(sorted(graphs))} ({size / 2**20:.1f} MiB)",
        "agreement with the trained model": told(one.gates),
        "exported": f"{time(one.created)}, anomalib_gan {one.version}",
        "model hash": one.hash,
        "fingerprint": fingerprint(one),
    }


def calibrations(chosen: Detector) -> None:
    now = manifest(chosen.path).calibration
    if now is None:
        st.warning("This detector is not calibrated: `anomalib-gan calibrate BUNDLE --good DIR` sets its thresholds.")
    else:
        st.markdown(f"**Now**, from {now.n} normal {now.unit}, {plain(time(now.created))}")
        st.markdown(thresholds(now))
        st.caption("  \n".join(map(plain, now.warnings)))
    db = settings.read().db
    if not db:
        st.info("The history stands in the results database: start with `--db FILE`.")
        return
    records, model = open_archive(db), chosen.manifest.hash
    events = records.events(model=model, limit=LISTED)
    st.markdown("**Changes and alarms**")
    if events:
        st.dataframe(listed(events), hide_index=True, height=35 * min(len(events), 8) + 38)
    else:
        st.caption("Nothing was changed here yet. What `anomalib-gan calibrate` does leaves no event.")
    kept = [one.content for one in records.calibrations(model)]
    st.markdown("**Thresholds that images were scored with**")
    if not kept:
        st.caption("The results hold no image that was scored with this model.")
        return
    rows = {
        "calibrated": [time(told(one.get("created"))) for one in kept],
        "from": [f"{told(one.get('n'))} {told(one.get('unit'))}" for one in kept],
        **{f"{name} above": [number(one.get(name)) for one in kept] for name in ("review", "reject", "pixel")},
    }
    st.dataframe(rows, hide_index=True, height=35 * min(len(kept), 8) + 38)


def thresholds(now: Calibration) -> str:
    """The thresholds with their expected false alarms per 1,000 normal images, and the 95 % limits of these."""
    rows = []
    for name in ("review", "reject", "pixel"):
        alarms = now.false_alarms(name)
        rows.append(
            [name, f"{getattr(now, name):.4g}", f"{1000 * alarms.share:.0f}", f"{1000 * alarms.bound:.0f}"]
        )  # fmt: skip
    return table(("threshold", "above", "false alarms per 1,000", "at most (95 %)"), rows, right=(1, 2, 3))


def evaluation(chosen: Detector) -> None:
    known = evaluations(chosen.bundle)
    if not known:
        st.info(
            "This bundle holds no evaluation. `anomalib-gan evaluate RUN DATASET` makes one in the run's folder, and "
            "`anomalib-gan export` takes it along."
        )
        return
    name = (
        known[0]
        if len(known) == 1
        else st.segmented_control("Data set", known, default=known[0], key="dataset", format_func=plain)
    )
    folder = f"card/evaluation/{name or known[0]}"
    report = document(chosen.bundle, f"{folder}/evaluation.json")
    overall = entry(report, "overall")
    left, right = st.columns([2, 3], gap="medium")
    with left:
        normal, anomalous = (told(entry(overall, f"{kind}_images")) for kind in ("normal", "anomalous"))
        about = f"{normal} normal and {anomalous} anomalous images, {time(told(report.get('created')))}"
        st.markdown(f"**{plain(name or known[0])}**: {plain(about)}")
        st.markdown(table(("figure", "pooled", "mean over images"), figures(overall), right=(1, 2)))
        if report.get("model") != chosen.manifest.hash:
            st.caption(plain(f"Measured with the model {told(report.get('model'))[:12]}, which this one comes from."))
        undefined = entry(report, "undefined")
        reasons = undefined.values() if isinstance(undefined, Mapping) else ()
        st.caption("  \n".join(plain(told(one)) for one in (*reasons, *items(report, "notes"))))
    with right:
        pictures(chosen, {"ROC": f"{folder}/roc.png", "precision over recall": f"{folder}/pr.png"}, columns=1)
    pictures(chosen, {"worst image": f"{folder}/worst.png", "best image": f"{folder}/best.png"}, columns=2)


def figures(overall: Any) -> list[list[str]]:
    def text(*names: str, percent: bool = False) -> str:
        value = number(entry(overall, *names))
        return NOTHING if value is None else f"{value:.1%}" if percent else f"{value:.4f}"

    rows = [[label, text("pixel", key), text("per_image", key)] for key, label in FIGURES.items()]
    return [
        *rows,
        ["defects hit", text("defects_hit", percent=True), ""],
        ["normal pixels above the threshold", text("normal_pixels_above", percent=True), ""],
        ["image AUROC", text("image_auroc"), ""],
    ]


def curves(chosen: Detector) -> None:
    shown = pictures(
        chosen,
        {
            "terms of the losses over the steps": "card/curves.png",
            "held-back normal images, their reconstructions and maps": "card/reconstructions.png",
            "samples of the generator over the steps": "card/samples.png",
        },
        columns=2,
    )
    if not shown:
        st.info("The card of this bundle has no curves and no samples: export the run again to have them.")


def pictures(chosen: Detector, wanted: Mapping[str, str], *, columns: int) -> int:
    """Shows those of the pictures that the bundle has, by title; how many these are."""
    there = {title: name for title, name in wanted.items() if chosen.has(name)}
    places = st.columns(columns, gap="medium")
    for at, (title, name) in enumerate(there.items()):
        with places[at % columns]:
            try:
                st.image(picture(chosen.bundle, name), caption=title, width="stretch")
            except ValueError as error:
                st.error(plain(str(error)))
    return len(there)
