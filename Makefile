PYTHON ?= python3
VENV := .venv
DEMO := build/demo
# One more worker than cores: tests wait for the processes that they start.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

.PHONY: help test test-quick lint docs demo benchmarks clean

help:
	@echo "make demo   fresh environment, train on synthetic birds, evaluate, export, predict"
	@echo "make test   create the environment, run every test on TensorFlow, JAX and (if installed) torch"
	@echo "make test-quick   only the quick tests, on one backend (KERAS_BACKEND)"
	@echo "make lint   ruff and mypy"
	@echo "make docs   build docs/ into build/site/index.html"
	@echo "make benchmarks   run the quick benchmarks, update RESULTS.md and README"

$(VENV)/.installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable ".[jax,hub,onnx,report,docs,dev]"
	touch $@

test: $(VENV)/.installed
	@set -e; for backend in tensorflow jax $$($(VENV)/bin/python -c \
	"import importlib.util as u; print('torch' if u.find_spec('torch') else '')"); do \
	  echo "== tests on $$backend"; \
	  KERAS_BACKEND=$$backend $(VENV)/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal; \
	done

test-quick: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist worksteal

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmarks: $(VENV)/.installed
	$(VENV)/bin/python -m benchmarks --quick

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# Each command's output goes to a file; a summary fits on one screen. The progress line
# goes to standard error.
DEMO_COMMAND = @echo '$$ keras-apinet $(1)'; $(DEMO)/venv/bin/keras-apinet $(1) >$(DEMO)/$(2).txt
demo:
	@rm -rf $(DEMO)
	@echo "Installing into $(DEMO)/venv ..."
	@$(PYTHON) -m venv $(DEMO)/venv
	@$(DEMO)/venv/bin/python -m pip install --quiet .
	$(call DEMO_COMMAND,train --data synthetic_birds --out $(DEMO)/birds,train)
	@grep '^Best' $(DEMO)/train.txt
	$(call DEMO_COMMAND,evaluate $(DEMO)/birds,evaluate)
	@sed -n '1,3p;/^most confused/,+2p' $(DEMO)/evaluate.txt
	$(call DEMO_COMMAND,export $(DEMO)/birds --out $(DEMO)/birds.tflite,export)
	@grep -E '^.{1,2}(size|same top-1|median)' $(DEMO)/export.txt
	@$(DEMO)/venv/bin/python -c "from PIL import Image; \
	from keras_apinet.data.birds import SPECIES, draw; \
	print('New synthetic image of a', SPECIES[0].name); \
	Image.fromarray(draw(0, 123456).pixels).save('$(DEMO)/bird.png')"
	$(call DEMO_COMMAND,predict $(DEMO)/birds.tflite $(DEMO)/bird.png --top 3,predict)
	@cat $(DEMO)/predict.txt
	@echo "In $(DEMO): the run in birds/, the file for phones in birds.tflite,"
	@echo "the photo in bird.png, the output of each command in *.txt."

clean:
	rm -rf build dist *.egg-info
