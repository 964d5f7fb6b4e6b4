"""The dashboard: what people at the line, in quality and in audits look at, in a browser.

`app.py` is what Streamlit runs. A page is a file in `pages/` with a function `page(user)`, and one line in
`pages/__init__.py`. Everything here works without torch: detectors are bundles.
"""
