# Two commands do all there is to set up: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test slow lint types format bench update clean

run: $(VENV)/run.stamp
	$(BIN)/python -m tuner study=digits

test: lint types
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "not slow and not gpu"

slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "slow and not gpu"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Hours, QUICK=1 minutes. TABLES names a folder of learning curves for search.py, TUNER_DATA one for CIFAR-10.
bench: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/controller.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/first_run.py
	$(BIN)/python benchmarks/leaks.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/search.py $(if $(TABLES),--data $(TABLES))
	$(BIN)/python benchmarks/failing.py
	$(BIN)/python benchmarks/real.py --study digits $(if $(TUNER_DATA),cifar)
	$(if $(TUNER_DATA),$(BIN)/python benchmarks/cifar.py)

# The newest versions that pass: install them, run the tests, and commit the file.
update: $(VENV)/dev.stamp
	$(BIN)/pip install --upgrade --upgrade-strategy eager -e '.[dev,postgres,ray]' torch==2.13.0
	{ head -2 constraints.txt; $(BIN)/pip freeze --all --exclude-editable --exclude tuner --exclude pip | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt

$(VENV)/run.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,postgres]'
	touch $(VENV)/run.stamp $@

clean:
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache
