# Everything runs in a virtual environment that `make` creates; no root and no compiler are needed.
VENV ?= .venv
PYTHON ?= python3
# Exact versions; `make CONSTRAINTS= …` installs the newest that requirements.txt allows.
CONSTRAINTS ?= constraints.txt

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# What needs no package of ours runs with another Python without making the environment.
IF_OWN := $(if $(filter $(VENV)/bin/python,$(PY)),$(STAMP))
REQUIREMENTS := requirements.txt requirements-dev.txt

SPACE := build/space
TESTS := $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
DEMO := experiments/coco_sample/demo.yaml
DEMO_RUN := output/coco/transpose_r/demo
DEMO_RESULTS := $(DEMO_RUN)/results/keypoints_val2017_results_0.json
DEMO_PICTURE := $(DEMO_RUN)/skeletons.png

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo notebook space test test-slow test-portable test-gpu test-web lint types docs attack bench bench-data bench-jobs bench-gpu soak clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: VENV=$(VENV) PYTHON=$(PYTHON) CONSTRAINTS=$(CONSTRAINTS)"

venv: $(STAMP) ## create the virtual environment and install the requirements

demo: $(STAMP) ## train and test on the 32 bundled images, print the AP, draw the skeletons
	@echo "== 1/4 Training a small TransPose-R on the 105 persons of 32 images. It memorises them: this shows"
	@echo "==     that everything from the JPEG to the AP works, not accuracy on new images."
	$(PY) tools/train.py --cfg $(DEMO)
	@echo "== 2/4 Testing on the same images, with the annotated boxes"
	$(PY) tools/test.py --cfg $(DEMO) TEST.USE_GT_BBOX True
	@echo "== 3/4 Drawing these skeletons"
	$(PY) tools/draw_results.py --cfg $(DEMO) --results $(DEMO_RESULTS) --out $(DEMO_PICTURE) \
	  --images 30 --threshold 0.6 --no-truth
	@echo "== 4/4 Testing the same weights with a detector's boxes"
	$(PY) tools/test.py --cfg $(DEMO) TEST.USE_GT_BBOX False RANK 1
	@echo "== The model has memorised these images; its AP says nothing about others."
	@echo "== Picture: $(DEMO_PICTURE); weights and results: $(DEMO_RUN); TensorBoard logs: log"

notebook: $(STAMP) ## run demo.ipynb with the demo's checkpoint and keep its outputs
	PYTHONPATH=tools $(PY) docs/run_notebook.py

space: ## make a Hugging Face Space of the web explorer in build/space (docs/web.md)
	rm -rf $(SPACE) && mkdir -p $(SPACE)/tools $(SPACE)/data
	cp -r lib LICENSE tools/space/README.md tools/space/app.py $(SPACE)
	cp tools/transpose.py tools/web_demo.py $(SPACE)/tools
	cp -r data/coco_sample $(SPACE)/data
	cat requirements.txt tools/space/requirements.txt > $(SPACE)/requirements.txt

test: $(STAMP) ## run the tests, in two processes of one thread each
	OMP_NUM_THREADS=1 $(TESTS)

test-slow: $(STAMP) ## run the tests that take minutes: whole trainings to an AP
	$(PY) -m pytest -m slow

test-portable: $(STAMP) ## run the tests as other CPUs compute: without vectors, up to AVX2, on one and two threads
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default $(TESTS)
	OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 $(TESTS)
	OMP_NUM_THREADS=1 $(TESTS)
	OMP_NUM_THREADS=2 $(TESTS)

test-web: $(STAMP) ## drive the web explorer in a headless Chromium: the system's, or CHROMIUM=…
	$(PY) -m pip install --disable-pip-version-check --quiet "gradio>=6.31,<7" playwright $(CONSTRAINTS:%=-c %)
	$(PY) -m pytest -m "web or not web" $(wildcard tests/predictor/test_web*.py)

test-gpu: $(IF_OWN) ## what only a GPU can show, in 8 minutes; PY=python3 where nothing can be installed
	$(PY) -m pytest --noconftest tests/gpu

lint: $(STAMP) types ## ruff check, ruff format --check, mypy on lib
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(STAMP) ## mypy on lib
	$(PY) -m mypy

docs: $(STAMP) ## build the site into build/site; every warning is an error
	$(PY) docs/make_configuration.py
	rm -rf build/source build/package && mkdir -p build/source
	cp -r lib pyproject.toml README.md LICENSE build/source
	$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --target build/package build/source
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

bench: $(STAMP) ## time each stage beside its plainest form (10 minutes); WRITE=1: thrice, into docs/benchmarks.md
	$(PY) tools/benchmark.py --stages $(if $(WRITE),--write)
	PYTHONPATH=tools $(PY) -m benchmarks.forward $(if $(WRITE),--write)

bench-data: $(STAMP) ## measure reading, loading and evaluation at COCO's size (5 minutes); WRITE=1: into docs/benchmarks.md
	PYTHONPATH=tools $(PY) -m benchmarks.scale $(if $(WRITE),--write)

bench-jobs: $(STAMP) ## measure whole jobs from start to end (an hour); WRITE=1: into docs/benchmarks.md
	PYTHONPATH=tools $(PY) -m benchmarks.jobs $(if $(WRITE),--write)

attack: $(STAMP) ## read spoilt files, send spoilt requests and kill runs, from a seed (SEED=…), for some minutes
	SEED=$(or $(SEED),0) INTERRUPTION_SEED=$(or $(SEED),0) $(PY) -m pytest -s -m slow tests/runtime/test_hostile_files.py \
	  tests/test_attacks.py tests/dataset/test_mutations.py tests/predictor/test_web_guard.py tests/engine/test_interruptions.py

bench-gpu: $(IF_OWN) ## measure the five models on a GPU, in 8 minutes; WRITE=1: into docs/gpu.md; PY=python3 as above
	PYTHONPATH=tools $(PY) -m benchmarks.gpu $(if $(WRITE),--write)

soak: $(STAMP) ## train and evaluate for 10 minutes (MINUTES=…) and see that memory and open files stay flat
	PYTHONPATH=tools $(PY) -m benchmarks.soak $(if $(MINUTES),--minutes $(MINUTES))

clean: ## remove caches and build outputs (runs, weights and the virtual environment stay)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find lib tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): $(REQUIREMENTS) $(CONSTRAINTS)
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not there; name a Python 3.11 or newer: make PYTHON=python3.11 …" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1); name another: make PYTHON=python3.11 …" >&2; exit 1; }
	@test -x "$(VENV)/bin/pip" || "$(PYTHON)" -m venv "$(VENV)" || \
	  { echo "$(PYTHON) cannot make a virtual environment; install its venv module (Debian, Ubuntu: python3-venv)" >&2; exit 1; }
	"$(PY)" -m pip install --disable-pip-version-check $(REQUIREMENTS:%=-r %) $(CONSTRAINTS:%=-c %) || \
	  { echo "Installing failed. Where the exact versions do not exist for this platform, try: make CONSTRAINTS= …" >&2; exit 1; }
	@touch $@
