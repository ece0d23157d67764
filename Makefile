# `make help` lists the targets; PYTHON=python3.12 chooses another Python, FLAGS=--smoke a small part of the data.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

STUDIES := convolution_gain training_length why_it_helps sample_efficiency robustness what_filters_see

.PHONY: all help test test-long lint figures study publish reproduce soak bench gpu-check lock clean

all: .venv/installed  ## set up, train both models of the original project, and print their difference (the default)
	$(BIN)/python deep_learning.py $(FLAGS)
	$(BIN)/python deep_learning_conv.py $(FLAGS)
	$(BIN)/python convolution_gain.py --short $(FLAGS)

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 14

# files in the order of their names: by default those with few tests come last, which are the longest here
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: .venv/installed-dev  ## set up and run the tests
	$(PYTEST) --ignore tests/faults --ignore tests/benchmarks --ignore tests/experiments

test-long: .venv/installed-dev  ## the longer tests: of faults, and of experiments and benchmark at their smallest
	$(PYTEST) tests/benchmarks tests/experiments tests/faults

lint: .venv/installed-dev  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

figures: .venv/installed  ## make figures, results/*.md and the tables of the documentation from the published runs
	MPLBACKEND=Agg $(BIN)/python deep_learning_pred.py --save figures/predictions.png
	MPLBACKEND=Agg $(BIN)/python confusion_matrix.py --save figures/confusion_matrix.png
	MPLBACKEND=Agg $(BIN)/python confusion_matrix.py --samples all --normalize --save figures/confusion_matrix_all.png
	for script in $(STUDIES); do \
		MPLBACKEND=Agg $(BIN)/python $$script.py --from-results --save figures/$$script.png > saves/$$script.md && \
		mv saves/$$script.md results/$$script.md || exit 1; \
	done
	$(BIN)/python docs/answer.py
	$(BIN)/python -m benchmarks.precision --from-results > saves/precision.md
	mv saves/precision.md results/precision.md
	$(BIN)/python docs/tables.py

study: .venv/installed  ## all runs of experiments 5 to 10 that are not published by this code: about a day on two cores
	for script in $(STUDIES); do \
		MPLBACKEND=Agg $(BIN)/python $$script.py --save saves/$$script.png || exit 1; \
	done
	$(BIN)/python -m benchmarks.precision

publish: .venv/installed  ## add the finished runs in saves/ to results/: make publish STUDIES=convolution_gain
	$(BIN)/python -m lab.study.published $(STUDIES)

reproduce: .venv/installed  ## train a published run of each variant of experiment 5 but the largest again, and compare: half an hour
	$(BIN)/python -m lab.study.reproduce

soak: .venv/installed-dev  ## all fault tests in their long form, and their table: an hour
	$(BIN)/python -m pytest tests -m fault --soak --faults results/faults.md

bench: .venv-bench/installed  ## compare the recipe with Keras, PyTorch and JAX: one or two hours
	.venv-bench/bin/python benchmarks/run.py

gpu-check: .venv/installed  ## on a machine with a GPU: is training right there, and how fast? a minute or two
	$(BIN)/python benchmarks/gpu_check.py

lock: .venv/installed  ## find the versions of everything again, from those that requirements*.txt name
	$(PIP) uv==0.13.9
	sed '/^-c/d' requirements.txt > requirements/.runtime.in
	sed 's/-r .*requirements.txt/-r .runtime.in/' requirements/dev.txt > requirements/.dev.in
	$(LOCK) requirements/.dev.in -o requirements/dev.lock
	sed -E 's/ \\$$//; /--hash/d' requirements/dev.lock > requirements/constraints.txt
	$(LOCK) requirements/.runtime.in -c requirements/constraints.txt -o requirements/runtime.lock
	rm requirements/.runtime.in requirements/.dev.in

clean:  ## remove all that git ignores
	rm -rf .venv .venv-bench saves .pytest_cache .ruff_cache __pycache__ */__pycache__ */*/__pycache__

.venv/installed: requirements/runtime.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "error: needs Python 3.11 to 3.13; choose one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes -r requirements/runtime.lock
	touch $@

.venv/installed-dev: .venv/installed requirements/dev.lock
	$(PIP) --require-hashes -r requirements/dev.lock
	touch $@

# an environment of its own: the contestants' packages are large, and slow down the import of Keras
.venv-bench/installed: requirements/bench.txt requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/bench.txt
	touch $@
