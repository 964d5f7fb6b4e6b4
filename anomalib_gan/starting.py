"""What a training may begin with beside its folder: the weights of an earlier run, and images that people reviewed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anomalib_gan import checkpoint, data, holding
from anomalib_gan.model import Spec
from anomalib_gan.runtime.calibrating import held_back, trained_on
from anomalib_gan.runtime.files import sha256_file


@dataclass(frozen=True)
class Start:
    """A finished run with whose averaged weights another one begins; `hash` is that of its model."""

    run: Path
    hash: str
    spec: Spec
    weights: dict[str, Tensor]
    card: dict[str, Any]
    before: holding.Before

    @classmethod
    def load(cls, run: str | os.PathLike[str]) -> Start:
        """CheckpointError for what is no finished run, ValueError for a model that is fitted in closed form."""
        folder = Path(run).absolute()
        model, state = checkpoint.load_model(folder)
        if not model.players():
            raise ValueError(f"{run} holds {state['spec']['name']}, which is fitted in closed form: it has no start")
        before = holding.Before(trained_on(folder), {one.sha256: one.box for one in held_back(folder) if one.sha256})
        return cls(folder, state["hash"], Spec(**state["spec"]), state["ema"], state["card"], before)

    def spec_for(self, model: str | None, params: Mapping[str, Any], flips: bool) -> Spec:
        """The spec of the run; a ValueError names what was asked for that differs from it."""
        asked = {"model": (model, self.spec.name), "flips": (flips, self.card["settings"]["flips"])}
        asked |= {f"parameter {key}": (value, self.spec.params.get(key)) for key, value in params.items()}
        for what, (wanted, found) in asked.items():
            if wanted is not None and wanted != found:
                raise ValueError(
                    f"{self.run} was trained with the {what} {found}, not {wanted}: its weights fit no other model, so "
                    "give the same, or train without --init-from"
                )
        return self.spec

    def told(self) -> dict[str, Any]:
        """What the card says of it: `trained` are the hashes of all images that its weights come from."""
        return {"run": str(self.run), "hash": self.hash, "trained": sorted(self.before.trained)}


@dataclass(frozen=True)
class Reviewed:
    """Images by what people said of them: the database, path and SHA-256 of the normal ones, SHA-256 of defective ones.

    It stands in the card, so that a run that is resumed takes the same images, whatever people have said since.
    """

    database: str
    normal: list[dict[str, str]]
    defective: list[str]

    def beside(self, files: Sequence[Path]) -> list[Path]:
        """The normal ones whose bytes are not among the `files`."""
        there = {sha256_file(path) for path in files}
        return [Path(one["path"]) for one in self.normal if one["sha256"] not in there]

    def check(self, images: Sequence[data.Normal]) -> list[str]:
        """What to tell about images that were read: those that people found defective. ValueError for a changed one."""
        known = {one["path"]: one["sha256"] for one in self.normal}
        for image in images:
            if known.get(str(image.path), image.sha256) != image.sha256:
                raise ValueError(f"{image.path} is not the file that was reviewed any more: put that one back")
        spoilt = [str(image.path) for image in images if image.sha256 in self.defective]
        return [f"{path} is defective by its reviews and would be learnt as normal: take it out" for path in spoilt]
