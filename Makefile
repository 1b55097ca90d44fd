PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo test slow coverage golden fuzz lint types check docs lock bench bench-quick clean

setup: .venv/ready  ## the environment: pinned dependencies, the demo's model and data

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,write,export,models,serve,demo,dev]'
	touch $@

demo: setup  ## fit a tweet classifier, prove that transfer helped, and answer two new texts: under three minutes
	$(BIN)/headstart fit specs/tweets.yaml --out runs/tweets --overwrite
	printf 'what a wonderful morning\nmy flight was cancelled again\n' | $(BIN)/headstart predict runs/tweets -
	@echo "The report, with the certificate as a picture: runs/tweets/report.html"

test: setup  ## the default suite; what holds a time limit runs behind it, alone
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow and not timing'
	$(BIN)/pytest -m 'timing and not slow'

slow: setup  ## what takes longer: real data, many kills
	$(BIN)/pytest -m slow

coverage: setup  ## the lines of headstart/ that the default suite runs, in every process: at least 95 %
	$(BIN)/pytest -n 2 --dist loadfile -m 'not slow and not timing' --cov --cov-report=term-missing

golden: setup  ## write the golden loss curves again
	HEADSTART_GOLDEN=write $(BIN)/pytest tests/unit/test_golden_losses.py

fuzz: setup  ## the readers under twenty thousand made-up files each; every verb for HEADSTART_FUZZ_S seconds
	HEADSTART_FUZZ=20000 $(BIN)/pytest -n 2 tests/property/test_readers.py
	HEADSTART_FUZZ=2000 $(BIN)/pytest tests/integration/test_api_schema.py
	$(BIN)/pytest -n 2 -m slow tests/fuzz

lint: setup
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

check: lint types test  ## what CI runs, less the README's own commands

docs: setup  ## the pages that are generated from the code
	$(BIN)/python -c "from headstart import methods; print(methods.reference(), end='')" > docs/methods.md
	$(BIN)/python docs/architecture.py

lock:  ## the versions of the serving image with their hashes; needs uv
	uv pip compile pyproject.toml --extra runtime --extra serve --constraint constraints.txt --generate-hashes \
	  --python-version 3.11 --index-url https://pypi.org/simple --no-annotate \
	  --custom-compile-command 'make lock' --output-file deploy/requirements.txt

bench-quick: setup  ## does the bench still run? one cell, seconds
	$(BIN)/python -m bench start --quick

bench: setup  ## every table in bench/results; hours
	$(BIN)/python -m bench

clean:
	rm -rf .venv runs .mypy_cache .ruff_cache .pytest_cache
