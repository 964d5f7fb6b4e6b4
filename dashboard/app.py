"""What Streamlit runs: the guard, the menu, the page."""

from __future__ import annotations

from functools import partial

import streamlit as st

from anomalib_gan.records.database import RecordsError
from anomalib_gan.runtime.bundle import BundleError
from dashboard import settings
from dashboard.access import guard, sign_out
from dashboard.garbage import set_modules_aside
from dashboard.pages import PAGES, Page
from dashboard.text import plain

# The numbers and tables are for screens at the line: less white space than Streamlit leaves, and hashes that wrap.
# While a page runs Streamlit fades what it showed before, sixty pictures a second: without a graphics card the
# processor draws them, and more of them the later the answer comes. The pointer tells it instead, the menu as before.
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 4.4rem 1.5rem 1rem; }
[data-testid="stSidebarUserContent"] { padding-top: 0.5rem; }
[data-testid="stVerticalBlock"] { gap: 0.6rem; }
[data-testid="stMarkdownContainer"] td:last-child { overflow-wrap: anywhere; }
.defects { max-height: 180px; overflow: auto; border: 1px solid #8884; border-radius: 6px; font-size: 0.875rem; }
.defects table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.defects th { font-weight: 400; }
.defects :is(th, td) { padding: 3px 8px; text-align: right; white-space: nowrap; }
.defects tbody tr { cursor: pointer; border-top: 1px solid #8883; }
.defects tbody tr:hover, .defects tbody tr:focus-within { background: #0072b222; }
.defects button { font: inherit; color: inherit; background: none; border: 0; padding: 0 4px; cursor: pointer; }
[data-testid="stElementContainer"] { transition: none !important; opacity: 1 !important; }
[data-testid="stProgress"] * { transition: none !important; }
[data-testid="stStatusWidget"] { transition: none !important; }
[data-testid="stElementContainer"][data-stale="true"] { cursor: progress; }
[data-testid="stSkeleton"], [data-testid="stSpinnerIcon"] { animation: none !important; }
</style>"""


def show(page: Page) -> None:
    """Every page passes the guard itself, whichever way it was reached.

    What goes wrong with the results or with a bundle while people look at them ends the page with a message, also where
    the page did not expect it; the next click tries again.
    """
    user = guard()
    try:
        page.show(user)
    except (RecordsError, BundleError, OSError) as error:
        st.error(plain(str(error)))


def main() -> None:
    st.set_page_config(page_title="anomalib_gan", layout="wide")
    st.html(STYLE)
    # Defined before anybody is let in, so that Streamlit never lists the files in pages/ by itself.
    pages = [
        st.Page(partial(show, page), title=page.title, url_path=page.path, default=page is PAGES[0]) for page in PAGES
    ]
    chosen = st.navigation(pages, position="top")
    user = guard()
    if settings.read().users:
        with st.sidebar:
            st.caption(f"{user.name}, {user.role}")
            st.button("Sign out", on_click=sign_out)
    try:
        chosen.run()
    finally:  # pages also end by an exception of Streamlit's
        set_modules_aside()


if __name__ == "__main__":
    main()
