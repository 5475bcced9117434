# Targets for people; `make` alone lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# e.g. make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu" for the small CPU build
TORCH_ARGS ?=
DEMO := $(CURDIR)/build/demo
PY := $(CURDIR)/.venv/bin/python
READY := .venv/.installed
# the pin stands in pyproject.toml alone
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

# the annotation server, see bundle/docs/annotate_with_monai_label.md
STUDIES ?= $(CURDIR)/build/label/studies
MODELS ?= $(CURDIR)/bundle/models
WORK ?= $(CURDIR)/build/label
HOST ?= 127.0.0.1
PORT ?= 8000
LABEL_ARGS ?=
LABEL_PY := $(CURDIR)/.venv-label/bin/python
LABEL_READY := .venv-label/.installed
LABEL_NEEDS := scripts/label_app/requirements.txt
LABEL_ALONE := scripts/label_app/requirements-no-deps.txt

# glibc hands large tensors back to the kernel after every use and asks for them again: page
# faults then cost more than the arithmetic (measured 3 to 4 times on a UNet's CPU forward).
# These keep them in the heap; they are read at the start of a process and ignored elsewhere.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 4294967296

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench bundle label lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no python3 found: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 13) and \
	  "Python %d.%d at $(PYTHON): 3.11 or 3.12 needed; make PYTHON=/path/to/python3.11" % v)'
	@echo "installing into .venv (once, some minutes)"
	@$(PYTHON) -m venv .venv
	@# torch first and alone, so that TORCH_ARGS may name another index for it
	@"$(PY)" -m pip install --quiet --disable-pip-version-check $(TORCH_ARGS) "$(TORCH)"
	@"$(PY)" -m pip install --quiet --disable-pip-version-check -e ".[demo,test,dev,export,dicom]"
	@touch $@

$(LABEL_READY): $(LABEL_NEEDS) $(LABEL_ALONE)
	@test -n "$(PYTHON)" || { echo "no python3 found: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "installing MONAI Label into .venv-label (once, some minutes)"
	@$(PYTHON) -m venv .venv-label
	@"$(LABEL_PY)" -m pip install --quiet --disable-pip-version-check $(TORCH_ARGS) "$(TORCH)"
	@"$(LABEL_PY)" -m pip install --quiet --disable-pip-version-check -r $(LABEL_NEEDS)
	@"$(LABEL_PY)" -m pip install --quiet --disable-pip-version-check --no-deps -r $(LABEL_ALONE)
	@# pydicom-seg takes this name from where pydicom 2 had it
	@echo "from pydicom.uid import SegmentationStorage" > "$$("$(LABEL_PY)" -c \
	  'import pydicom; print(pydicom.__path__[0])')/_storage_sopclass_uids.py"
	@touch $@

label: $(LABEL_READY) ## start the annotation server (STUDIES=, MODELS=, HOST=, PORT=, WORK=)
	@"$(LABEL_PY)" scripts/label_app/start.py --studies "$(STUDIES)" --models "$(MODELS)" \
	  --work "$(WORK)" --host "$(HOST)" --port "$(PORT)" $(LABEL_ARGS)

demo: $(READY) ## install, prepare data, train, align to a simulated second scanner, write pairs
	@"$(PY)" -m alignflow.demo.prepare --output_dir "$(DEMO)/data" --site_dir "$(DEMO)/site"
	@echo "training the image flow, the mask flow and the source segmenter"
	@cd bundle && "$(PY)" -m monai.bundle run training \
	  --config_file "['configs/train.json','configs/demo.json']" \
	  --dataset_dir "$(DEMO)/data" --output_dir "$(DEMO)/models"
	@echo "writing synthetic pairs"
	@cd bundle && "$(PY)" -m monai.bundle run infer --config_file configs/inference.json \
	  --model_dir "$(DEMO)/models" --output_dir "$(DEMO)/pairs"
	@echo "aligning to the simulated second scanner"
	@cd bundle && "$(PY)" -m monai.bundle run align \
	  --config_file "['configs/align.json','configs/demo_align.json']" \
	  --model_dir "$(DEMO)/models" --reference_dir "$(DEMO)/site/references" \
	  --output_dir "$(DEMO)/aligned"
	@echo "writing synthetic pairs of the aligned bundle"
	@cd bundle && "$(PY)" -m monai.bundle run infer --config_file configs/inference.json \
	  --model_dir "$(DEMO)/aligned" --output_dir "$(DEMO)/aligned_pairs"
	@"$(PY)" -m alignflow.demo.rows --model_dir "$(DEMO)/models" --output "$(DEMO)/rows.png" \
	  --source "$(DEMO)/data" --references "$(DEMO)/site/references" \
	  --unaligned "$(DEMO)/pairs" --aligned "$(DEMO)/aligned_pairs"
	@echo "done; under build/demo look at"
	@echo "  rows.png                        source, references, unaligned and aligned images"
	@echo "  aligned/alignment.png           references; the same masks unaligned and aligned"
	@echo "  pairs/, aligned_pairs/          pairs, contact_sheet.png and provenance of both"
	@echo "  site/test/                      labelled slices of the simulated site, unseen so far"

# a module's tests share fixtures, which train: they stay in one process
test: $(READY) ## run the fast tests
	@"$(PY)" -m pytest -n logical --dist loadfile

test-all: test ## run these, then the tests of documents, processes, servers and kills
	@"$(PY)" -m pytest -n logical --dist loadfile -m "integration and not slow and not gpu"

bench: $(READY) ## run the quick benchmarks, see benchmarks/README.md
	@"$(PY)" benchmarks/solver.py
	@"$(PY)" benchmarks/train_step.py --rounds 3 --steps 2
	@echo "left out: stage1_quality and real_data, which need data, and sampler and peers,"
	@echo "which need a distilled bundle (see benchmarks/README.md)"

bundle: $(READY) ## the model-zoo zip; MODELS=DIR adds weights, DATA_SOURCE= says of what
	@"$(PY)" -m alignflow.packing pack $(if $(MODELS),--model_dir "$(MODELS)") \
	  $(if $(DATA_SOURCE),--data_source "$(DATA_SOURCE)")

lint: $(READY) ## ruff (lint, format) and mypy
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

clean: ## remove .venv, build and caches
	rm -rf .venv .venv-label build .pytest_cache .mypy_cache .ruff_cache .hypothesis scripts/*.egg-info
