"""What needs a run, not only its bundle: an image inverted and edited, and directions in the codes, by jobs of
`anomalib-gan explore` beside the dashboard. What they find stays in the folder `explore` of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import streamlit as st

from anomalib_gan.records.access import User, require
from anomalib_gan.runtime.files import read_json
from anomalib_gan.runtime.image import open_image
from dashboard import jobs, settings
from dashboard.cards import entry, told
from dashboard.choosing import choose
from dashboard.detectors import Detector
from dashboard.files import resolve
from dashboard.retraining import EXTRA, at_work, attempt, ended, installed, refused, run_of
from dashboard.sources import Item
from dashboard.text import plain
from dashboard.viewer import Bytes

FOLDER, OUT = "explore", "out"
PROPERTIES = ("thickness", "density", "orientation", "brightness")
"""As of `anomalib_gan.properties`, which is the business of the command."""
NONE = "nothing"
PIXELS = 64 * 2**20
"""Of a sheet of pictures."""
NEEDS = (
    "A bundle has no model that could be searched through. Start the dashboard with `--runs DIR`, the folder with this "
    "model's run, to do this by a button."
)
Command = Callable[[], list[str]]
"""Gives the arguments of a sub-command but for the run and where to write; a ValueError says why there are none."""


def inversion(chosen: Detector, user: User) -> None:
    """The image that is looked at in the generator's terms, and edited."""
    with st.sidebar:
        items = choose(chosen)
        item = st.selectbox("Image", items, format_func=lambda one: one.name, key="inverted") if items else None
        along = st.selectbox("Move along", (NONE, *PROPERTIES), key="move along")
        by = st.slider("By, in sigmas of the code", -4.0, 4.0, 2.0, 0.25, disabled=along == NONE, key="move by")
    st.caption(
        "Searches for the codes z from which the generator draws the image best. Moved along a property, what changes "
        "in G(z) is also carried over to the image itself, which so keeps the detail that the generator does not draw."
    )

    def command() -> list[str]:
        move = [] if along == NONE else ["--move", along, "--by", f"{by:g}"]
        return [str(file_of(item)), *move]

    offered(chosen, user, "invert", "Invert", command)


def file_of(item: Item | None) -> Path:
    """The file of an image, for a command; ValueError where there is none."""
    if item is None:
        raise ValueError("Choose an image on the left.")
    if item.data is not None:
        raise ValueError("A dropped or taken picture lies in memory only: choose one of a folder of `--images`.")
    return resolve(item.root, item.relative)


def directions(chosen: Detector, user: User) -> None:
    """The directions in the codes along which properties of the image move."""
    with st.sidebar:
        wanted = st.multiselect("Properties", PROPERTIES, default=["density"], key="directions of")
    st.caption(
        "Finds for each property the direction in the codes along which it rises in generated images, and tells how "
        "far the other properties move with it."
    )

    def command() -> list[str]:
        if not wanted:
            raise ValueError("Choose a property on the left.")
        return [word for name in wanted for word in ("--property", name)]

    offered(chosen, user, "directions", "Find directions", command)


def offered(chosen: Detector, user: User, kind: str, label: str, command: Command) -> None:
    """The button that starts the job, or why there is none; how far it is; what jobs of this kind have found."""
    known = settings.read()
    refused()
    try:
        if not known.runs:
            raise ValueError(NEEDS)
        home = run_of(chosen, known.runs) / FOLDER
    except ValueError as error:
        st.button(label, disabled=True)
        st.info(plain(str(error)))
        return
    job = jobs.latest(home)
    try:
        if not installed():
            raise ValueError(EXTRA)
        words = command()
    except ValueError as error:
        st.button(label, disabled=True)
        st.info(plain(str(error)))
    else:
        st.button(
            label, type="primary", disabled=job is not None and job.running, on_click=attempt,
            help="It goes on when this page is closed. For engineers.", args=(lambda: begin(home, kind, words, user),),
        )  # fmt: skip
    if job is not None:
        at_work(str(home), user, "What it has found so far is lost.") if job.running else ended(job, user)
    results(home, kind)


def begin(home: Path, kind: str, words: list[str], user: User) -> Path:
    """Starts `explore` with these words for the run above `home`; errors as of `jobs.start`."""
    require(user, "engineer", "explore a model")
    home.mkdir(exist_ok=True)
    name = next(one for one in (f"{kind}-{n}" for n in range(1, 10**6)) if not (home / one).exists())
    out, progress = home / name / OUT, home / name / jobs.FOLDER / jobs.PROGRESS
    command = ["explore", kind, str(home.parent), *words, "--out", str(out), "--progress", str(progress)]
    return jobs.start(home, name, [command], out, user)


def results(home: Path, kind: str) -> None:
    """What a job of this kind has found: its sheet of pictures and its text."""
    done = [path.parents[1].name for path in home.glob(f"{kind}-*/{OUT}/{kind}.json")]
    known = filter(jobs.NAME.fullmatch, done)
    names = sorted(known, key=lambda name: (len(name), name), reverse=True)  # by their numbers, the latest first
    if not names:
        return
    name = st.selectbox("Result", names, key=f"result of {kind}")
    folder = resolve(home, f"{name if name in names else names[0]}/{OUT}")
    found = read_json(folder / f"{kind}.json")
    of = plain(told(entry(found, "image") or entry(found, "run")))
    st.image(picture(folder / f"{kind}.png"), caption=of, width="stretch")
    st.code((folder / f"{kind}.md").read_text(encoding="utf-8"), None)


def picture(path: Path) -> Bytes:
    """A picture that a job has written, (height, width[, 3]); ImageError where it cannot be shown."""
    with open_image(path, info_bar=0, max_pixels=PIXELS) as opened:
        return np.asarray(opened.rows(0, opened.height), np.uint8).squeeze()
