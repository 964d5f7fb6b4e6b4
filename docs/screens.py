"""Photographs two pages of a running dashboard beside this file: dashboard-inspect.png and dashboard-review.png.

anomalib-gan dashboard --models BUNDLES --images data_samples/test --db RESULTS/results.db
python docs/screens.py http://127.0.0.1:8501

Only images of data_samples are shown: one is dropped, and the results must be those of data_samples/test.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
DROPPED = HERE.parent / "data_samples" / "test" / "film" / "000.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", help="of the dashboard")
    address = parser.parse_args().address
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.locator("input[type=file]").set_input_files(str(DROPPED))
        take(page, "dashboard-inspect.png")
        page.get_by_role("button", name="Put it into the review queue").click()  # where it may be the only one
        page.wait_for_timeout(3000)
        page.get_by_role("link", name="Review queue").click()
        page.get_by_text("waiting").wait_for()
        take(page, "dashboard-review.png")
        browser.close()


def take(page, name: str) -> None:
    """Once the viewer shows its image and nothing more changes."""
    page.locator(".viewer[data-scale]").wait_for()
    page.wait_for_timeout(5000)
    page.screenshot(path=HERE / name)


if __name__ == "__main__":
    main()
