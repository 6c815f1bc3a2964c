# Turntable's tutorial: `make demo` is the whole way from assets to a mesh, a command a line.
# `make setup` needs Python 3.11 and no root; it does nothing when nothing changed.

PYTHON ?= python3.11
VENV   := .venv
RUN    := $(VENV)/bin/python -m
DEMO   ?= demo

.PHONY: setup demo test lint format clean-demo

setup: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt system-packages.txt
	@command -v $(PYTHON) >/dev/null || { echo "Turntable needs Python 3.11 (Blender's wheel is built for it); install it (Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv) or say PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11, which Blender's wheel is built for; say PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; install its venv package (Debian, Ubuntu: sudo apt-get install python3.11-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[render,train,dev]'
	@$(RUN) render.system
	@touch $@

test: setup lint
	$(RUN) pytest

lint: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
