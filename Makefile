# Two commands set everything up on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
TEST_STAMP := .venv/test-packages
JOBS ?= 2

.PHONY: serve test quick check lint types coverage bench docs accuracy lock clean

serve: $(STAMP)  ## install what is needed and serve the built-in demo model on :8000
	$(BIN)/lading engine install
	exec $(BIN)/lading serve demo

test: $(TEST_STAMP)  ## all tests, the real CPU engine included
	$(BIN)/lading engine install
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

quick: $(STAMP)  ## the tests that need no engine
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not engine"

check: lint types coverage  ## everything that CI runs

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

coverage: $(TEST_STAMP)  ## all tests, with the share of src/ that they ran
	$(BIN)/lading engine install
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -n $(JOBS) --dist worksteal
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report

bench: $(STAMP)  ## measure; prints ratios
	$(BIN)/python -m benchmarks

docs: $(STAMP)  ## write the generated parts of the documents
	$(BIN)/python tools/generate_docs.py

accuracy: $(STAMP)  ## how right the memory estimate is; writes docs/accuracy.md
	$(BIN)/python -m tools.accuracy

lock: $(STAMP)  ## pin exact versions and hashes again, from the ranges in pyproject.toml
	$(BIN)/python -m pip install -q "uv>=0.9"
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 --no-header pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 --no-header pyproject.toml --group dev --all-extras -o requirements/dev.txt
	printf 'awscli\nboto3\nhuggingface_hub>=2,<3\ns5cmd\n' | $(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 --no-header - -o requirements/bench.txt
	echo "mitmproxy>=11,<13" | $(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 --no-header - -o requirements/mitmproxy.txt
	echo "olah>=0.5,<0.6" | $(BIN)/uv pip compile -q --upgrade --universal --generate-hashes --python-version 3.11 --no-header - -o requirements/olah.txt

$(TEST_STAMP): $(STAMP) tools/test_programs.py requirements/mitmproxy.txt requirements/olah.txt
	PYTHON="$(PYTHON)" tools/bootstrap .venv tests
	$(BIN)/python tools/test_programs.py
	touch $@

clean:
	rm -rf .venv .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml requirements/dev.txt tools/bootstrap
	PYTHON="$(PYTHON)" tools/bootstrap .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --editable .
	touch $@
