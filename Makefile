# The two commands of the project, `make train` and `make test`; each sets up .venv by itself.
# `make quick PART=strategies` runs the quick tests of what you work on; `make docs` builds the site, build/site/index.html.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE = 1

.PHONY: train test quick check format bench docs clean

train: .venv/.installed
	$(BIN)/cggm-med train --task brats2021

test: .venv/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder

quick: .venv/.installed-dev
	@$(BIN)/python tests/quick.py $(PART)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.installed
	$(BIN)/python benchmarks/strategy_overhead.py
	$(BIN)/python benchmarks/patch_loading.py
	$(BIN)/python benchmarks/predict.py
	$(BIN)/python benchmarks/read_layouts.py --tiny
	$(BIN)/python benchmarks/phantom_voxels.py
	$(BIN)/python benchmarks/exchanged_names.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/beside_others.py
	$(BIN)/python benchmarks/check_cost.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/cohort.py
	$(BIN)/python benchmarks/exchange.py

docs: .venv/.installed-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs -d build/doctrees . build/site
	$(BIN)/python docs/check_links.py build/site

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/.installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch .venv/.installed $@

clean:
	rm -rf .venv build dist docs/tutorials
