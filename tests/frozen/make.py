"""Made the bundle beside it, which every later version must load, and what the trained model said of two images.

    python tests/frozen/make.py FOLDER

A new schema gets a bundle of its own; those of old ones are never made again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from anomalib_gan.opening import open_inspector
from anomalib_gan.runtime.bundle import SCHEMA, fingerprint, load, write
from anomalib_gan.runtime.files import write_json
from pipelines.calibrate import calibrate
from pipelines.export import export
from pipelines.train import train

SAMPLES = Path(__file__).parents[2] / "data_samples"
IMAGES = ("test/good/000.png", "test/dust/000.png")
SMALL = {"width": 8, "code": 4, "patch": 96, "smoothing": 2.0, "likelihood": 0.1}


def main(out: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = train(SAMPLES, out=Path(scratch) / "run", steps=600, params=SMALL, device="cpu", threads=1)
        calibrate(run, threads=1, device="cpu")
        export(run, Path(scratch) / "bundle", parts=True, generator=True, threads=1)
        made = load(Path(scratch) / "bundle")
        files = {name: made.read(name) for name in made.manifest.files if name.endswith((".onnx", ".json"))}
        inspector = open_inspector(run, device="cpu", threads=1)
        said = {name: inspector(SAMPLES / name) for name in IMAGES}
    for name in ("card/card.json", "card/split.json"):
        files[name] = json.dumps(anonymous(json.loads(files[name])), indent=1).encode()
    written = write(out / f"v{SCHEMA}.bundle", replace(made.manifest, name="data_samples"), files)
    figures = {
        name: {"verdict": found.verdict, "score": found.score, "peak": found.peak, "defects": found.defect_count}
        for name, found in said.items()
    }
    write_json(out / f"v{SCHEMA}.json", {"fingerprint": fingerprint(written), "images": figures})


def anonymous(value: Any) -> Any:
    """Without the places and the machine of the training."""
    if isinstance(value, dict):
        return {key: anonymous(one) for key, one in value.items() if key not in ("machine", "versions")}
    if isinstance(value, list):
        return [anonymous(one) for one in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


if __name__ == "__main__":
    main(Path(sys.argv[1]))
