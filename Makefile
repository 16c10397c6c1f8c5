# A fresh machine needs Python 3.11 to 3.13 and make; everything else goes into .venv/.
#
#   make demo     install, train on an embedded data set, export five formats, verify
#   make test     the whole suite
#   make quick    the tests that are not marked slow, for the inner loop
#   make lint     ruff and mypy
#   make bench    the measurements behind the README's figures (minutes)
#   make install  only the environment; CONSTRAINTS= takes the newest releases instead of the tested ones
#   make reference  train, export and bundle artifacts/reference/mnist.zip again; DATA_DIR is where MNIST lies
#   make clean    remove the environment, caches and the demo's run

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
DEMO := artifacts/demo
DATA_DIR ?= data
READY := .venv/.ready

# The suite starts hundreds of interpreters, which would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: install demo test quick lint bench reference clean

install: $(READY)

$(READY): pyproject.toml $(wildcard $(CONSTRAINTS))
	@echo "==> making .venv and installing (some hundred MB the first time; a minute or two)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12 install")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.[dev]'
	@touch $@

demo: $(DEMO)/export/manifest.json
	@echo "==> verifying the exported files against PyTorch"
	@$(BIN)/python cli.py verify --run $(DEMO)
	@echo "==> done; look at"
	@ls -1 $(DEMO)/pictures/*.png $(DEMO)/export/*

$(DEMO)/checkpoint.safetensors: $(READY)
	@echo "==> training on scikit-learn's handwritten digits (no download; half a minute)"
	@$(BIN)/python cli.py train --dataset digits --out $(DEMO) --force
	@touch $@

$(DEMO)/export/manifest.json: $(DEMO)/checkpoint.safetensors
	@echo "==> exporting encoder, decoder and autoencoder in five formats"
	@$(BIN)/python cli.py export --format all --run $(DEMO) --force
	@touch $@

test: $(READY)
	@echo "==> running the suite (twenty minutes on two cores)"
	@$(BIN)/python -m pytest -n auto --dist worksteal --durations=20

quick: $(READY)
	@echo "==> running the tests that are not marked slow (90 s on two cores)"
	@$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

lint: $(READY)
	@echo "==> ruff and mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)
	@failed=; for script in $$(grep -l __main__ benchmarks/*.py); do \
		echo "==> $$script"; $(BIN)/python $$script || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "==> a figure was missed, or could not be measured, by:$$failed"; exit 1; }

reference: RUN := artifacts/mnist-reference
reference: $(READY)
	$(BIN)/python cli.py train --family mlp --hidden-size 200 --latent-size 10 --epochs 40 --precision float32 --threads 1 --data-dir $(DATA_DIR) --out $(RUN) --force
	$(BIN)/python cli.py export --run $(RUN) --format onnx --format torchscript --part encoder --part decoder --force
	$(BIN)/python cli.py verify --run $(RUN) --force
	$(BIN)/python cli.py bundle --run $(RUN) --name mnist --licence LICENSE --notes artifacts/reference/notes.md --out artifacts/reference/mnist.zip --force

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist $(DEMO)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
