"""Making the next model of one and of what people said of its images: by a button, or by commands to copy."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from anomalib_gan.records.access import User
from anomalib_gan.records.database import is_url
from anomalib_gan.runtime.bundle import GENERATOR, MANIFEST
from anomalib_gan.runtime.card import read_card
from anomalib_gan.runtime.files import short
from dashboard import jobs, settings
from dashboard.cards import entry, lasting, number
from dashboard.detectors import Detector
from dashboard.files import locate, resolve
from dashboard.text import plain

MINUTES = 18.0
"""As of `train`, which cannot be asked without torch."""
TOLD = "retraining told"
EXTRA = "Training needs torch, which is not installed here: pip install 'anomalib_gan[train]'"


def retraining(chosen: Detector, user: User) -> None:
    """The job that makes the next model, where there is a folder of runs; else the commands."""
    known = settings.read()
    job = jobs.latest(known.runs) if known.runs else None
    refused()
    if job is not None:
        at_work(known.runs, user) if job.running else ended(job, user)
    with st.expander("Train the next model with the reviewed images"):
        st.caption("Images that people call normal are trained on, too. The new bundle then stands in the list above.")
        if known.runs:
            beginning(chosen, user, busy=job is not None and job.running)
            return
        st.caption(
            "Start the dashboard with `--runs DIR`, the folder with this model's run, to do this by a button. Or run "
            "this in a terminal where the training images and the run of this model are (its card knows the run's "
            "name alone), after `pip install 'anomalib_gan[train]'`."
        )
        st.code(commands(chosen), None, wrap_lines=True)


def beginning(chosen: Detector, user: User, *, busy: bool) -> None:
    """Asks for name and length, and starts; or says why it cannot."""
    known = settings.read()
    try:
        if not installed():
            raise ValueError(EXTRA)
        before, images, bundles = run_of(chosen, known.runs), training_images(chosen), place(chosen)
    except ValueError as error:
        st.button("Train", disabled=True)
        st.info(plain(str(error)))
        return
    name = st.text_input("Name of the new run and bundle", unused(before, bundles), max_chars=99)
    minutes = st.number_input("Minutes of training", min_value=0.5, max_value=7 * 24 * 60.0, value=MINUTES)
    run, bundle = Path(known.runs) / name, bundles / f"{name}.bundle"
    chain = steps(chosen, str(images), str(run), str(before), jobs.DATABASE, str(bundle))
    chain[0] += ["--minutes", f"{minutes:g}", "--resume", "--progress", str(run / jobs.FOLDER / jobs.PROGRESS)]
    st.button(
        "Train", type="primary", disabled=busy, help="It goes on when this page is closed. For engineers.",
        on_click=attempt, args=(lambda: jobs.start(known.runs, name, chain, bundle, user),),
    )  # fmt: skip


@st.fragment(run_every=2.0)
def at_work(runs: str, user: User, stopped: str = "The last checkpoint stays, for `Go on`.") -> None:
    """How far the job is, looked up anew every two seconds until it ends. `stopped`: what stopping it means."""
    try:
        job = jobs.latest(runs)
        if job is None or not job.running:
            st.rerun()
        refused()
        st.progress(*how_far(job))
    except (ValueError, OSError) as error:  # the page catches what happens when it runs as a whole, and not here
        st.error(plain(str(error)))
        return
    st.button(
        "Stop", disabled=(job.folder / jobs.STOP).exists(), help=stopped,
        on_click=attempt, args=(lambda: jobs.stop(job.folder, user),),
    )  # fmt: skip


def how_far(job: jobs.Job) -> tuple[float, str]:
    """The share of the training that is done, 1 after it, and words for it."""
    at = next((i for i, step in enumerate(job.steps) if step["state"] != "done"), len(job.steps) - 1)
    words, found = f"{job.name}: {job.steps[at]['command'][0]}, {at + 1} of {len(job.steps)}", job.progress()
    count, of = number(found.get("step")), number(found.get("steps"))
    if at > 0 or count is None:
        return float(at > 0), plain(words)
    left = f", {lasting(found['seconds_left'])} left" if found.get("seconds_left") else ""
    words += f": {found.get('state')}, step {count:g}{f' of {of:g}' if of else ''}{left}"
    return min(1.0, count / of) if of else 0.0, plain(words)


def ended(job: jobs.Job, user: User) -> None:
    """What became of the last job and, where something is left to do, the button for it."""
    if job.state == "done":
        st.caption(plain(f"{job.name}, started by {job.who}, is done: {job.bundle}"))
        return
    step = next(step for step in job.steps if step["state"] != "done")
    what = f"{job.name}, started by {job.who}: {step['command'][0]}"
    if job.state == "failed":
        st.error(plain(f"{what} failed with exit code {step['code']}. The end of its log:"))
        st.code(job.last_lines(), None)
    else:
        st.warning(plain(f"{what} was stopped. What is done is kept."))
    able = installed()
    st.button("Go on", disabled=not able, on_click=attempt, args=(lambda: jobs.go_on(job.folder, user),))
    if not able:
        st.info(plain(EXTRA))


def attempt(action: Callable[[], object]) -> None:
    try:
        action()
    except (ValueError, OSError) as error:  # PermissionError is one of these
        st.session_state[TOLD] = str(error)


def refused() -> None:
    """Shows why the last attempt came to nothing, if it did."""
    if told := st.session_state.pop(TOLD, None):
        st.error(plain(told))


def installed() -> bool:
    """Is torch there? It is looked for, and not imported."""
    return importlib.util.find_spec("torch") is not None


def run_of(chosen: Detector, runs: str) -> Path:
    """The run below `runs` that the bundle was exported from; a ValueError where it is not there.

    It has the name in the bundle's card and the very same card, with the time of its training, the hashes of its images
    and the range of its maps, which another model does not share. In any precision, unlike the model's hash.
    """
    name = entry(chosen.card, "name")
    if not isinstance(name, str) or not jobs.NAME.fullmatch(name):
        raise ValueError(f"The card of this bundle names no run ({short(name)}), so there is nothing to begin with.")
    if not (Path(runs) / name).is_dir():
        raise ValueError(f"The run {name} of this bundle is not in {runs}: put it there, or use another --runs.")
    found = resolve(runs, name)
    if read_card(found) != chosen.card:
        raise ValueError(f"{found} is another run than this bundle was exported from: put that one back.")
    return found


def training_images(chosen: Detector) -> Path:
    """The folder that the card names, where one of the configured folders holds it; else a ValueError."""
    folder, roots = entry(chosen.card, "data", "folder"), settings.read().images
    if not isinstance(folder, str):
        raise ValueError("The card of this bundle names no folder of training images.")
    found = Path(folder)
    return found if str(found) in roots else locate(roots, found)


def place(chosen: Detector) -> Path:
    """The configured folder of bundles for the new one: that of this bundle, or the first; else a ValueError."""
    folders = [Path(root) for root in settings.read().models if not (Path(root) / MANIFEST).is_file()]
    if not folders:
        raise ValueError("The new bundle needs a folder: start with the folder of bundles in --models, not a bundle.")
    return chosen.path.parent if chosen.path.parent in folders else folders[0]


def unused(before: Path, bundles: Path) -> str:
    """A name for the next run that neither a run nor a bundle has."""
    names = (f"{before.name}-next{'' if i == 1 else i}" for i in range(1, 10_000))
    return next(
        one for one in names if not any(os.path.lexists(p) for p in (before.parent / one, bundles / f"{one}.bundle"))
    )


def commands(chosen: Detector) -> str:
    """One to a line. The database's URL is left out: it may hold a password, which is nobody's business here."""
    folder, run, db = entry(chosen.card, "data", "folder"), entry(chosen.card, "name"), settings.read().db
    folder, run = (one if isinstance(one, str) else name for one, name in ((folder, "NORMAL_DIR"), (run, "RUN")))
    after = f"{run}-next"
    bundle = str(chosen.path.parent / f"{after}.bundle")
    lines = steps(chosen, folder, after, run, "DATABASE_URL" if is_url(db) else db, bundle)
    lines[1] += ["--good", "GOOD_IMAGES_FROM_THE_LINE"]
    return "\n".join(shlex.join(["anomalib-gan", *line]) for line in lines)


def steps(chosen: Detector, folder: str, out: str, before: str, database: str, bundle: str) -> list[list[str]]:
    """Training, calibration and export, read and mirrored as those of the model before."""
    given = entry(chosen.card, "settings")
    bar, flips = entry(given, "info_bar"), entry(given, "flips")
    bar = ["--info-bar", str(bar)] if isinstance(bar, int) else []
    train = ["train", folder, "--out", out, "--init-from", before, "--add-reviewed", database, *bar]
    graphs = ["--precision", chosen.manifest.precision, *["--generator"] * chosen.has(GENERATOR)]
    return [
        [*train, *["--no-flips"] * (flips is False)],
        ["calibrate", out, *bar],
        ["export", out, "--out", bundle, *graphs],
    ]
