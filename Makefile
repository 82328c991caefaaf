# The two commands a fresh machine needs: `make demo` and `make test`. Each builds the environment that it needs in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null)
# Of its own, for a comma would end the argument of a call.
WITH_EXTRAS := .[test,denoise]

.PHONY: demo test format clean

demo: $(VENV)/.ready
	$(BIN)/sparsem demo demo

test: $(VENV)/.ready-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadgroup --max-worker-restart 0

format: $(VENV)/.ready-to-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo dist

$(VENV)/bin/python:
ifdef UV
	uv venv --quiet --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

$(VENV)/.ready: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,-e .)
	touch $@

$(VENV)/.ready-to-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call install,-e $(WITH_EXTRAS))
	touch $@ $(VENV)/.ready

ifdef UV
install = uv pip install --quiet --python $(BIN)/python --constraint constraints.txt $(1)
else
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(1)
endif
