# make demo   set up, then build, profile and report two small models
# make test   set up, then the tests
# make schema write the JSON Schemas under docs/schema again
# PIP_ARGS    extra arguments for pip, such as an index with CPU builds of torch

.PHONY: demo test lint schema clean
PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= cpu,nncf,tensorrt-rtx,export,train,report,serve,load,test

demo: $(VENV)/.installed
	$(VENV)/bin/deploy demo

test: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -q

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

schema: $(VENV)/.installed
	$(VENV)/bin/python -c "import pathlib, deploy.reporting.schemas as s; s.write_schemas(pathlib.Path('docs/schema'))"

clean:
	rm -rf $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.12 demo" if sys.version_info < (3, 11) else 0)'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@
