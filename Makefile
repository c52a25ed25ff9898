# make bench   set up and run the main job: by default on the built-in simulated endpoint, or
#              make bench URL=https://host/v1 MODEL=name [CONCURRENCY=1,8,64] [DURATION=30s]
# make test    set up and pass the tests
# make test-slow  those that take longer
# make test-ray  those that need a Ray cluster: installs the extra, starts three raylets on loopback
# make fuzz    fuzz every target for TIME seconds (default 60), or one: make fuzz TARGET=responses TIME=900
# make check   ruff and mypy

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: bench bench-real test test-slow test-ray fuzz check lock clean

$(READY): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

bench: $(READY)
	$(BIN)/python benchmarks/main_job.py $(if $(URL),--url $(URL)) $(if $(MODEL),--model $(MODEL)) \
		$(if $(CONCURRENCY),--concurrency $(CONCURRENCY)) $(if $(DURATION),--duration $(DURATION))

bench-real: $(READY)
	$(BIN)/python benchmarks/real.py

# Real processes and sockets can miss what a test waits for where the machine stands still: what failed runs once more, one by
# one, and what fails again has failed. The first report stays to be read: a test that is seen in it often wants mending.
PYTEST := $(BIN)/python -m pytest
ONCE_MORE := --last-failed --last-failed-no-failures none --maxfail 3
passes = $(PYTEST) $(2) -m $(1) || { test $$? -eq 1 && echo "What failed, once more:" && $(PYTEST) $(ONCE_MORE) -m $(1); }

# Most tests wait for sockets and processes, so a machine of two cores takes three at a time: make test JOBS=1 for one.
# Those that want the cores for themselves use little of them, and go by what they come to at their best: two at a time.
test: $(READY)
	$(call passes,"not slow and not alone and not ray",-n $(or $(JOBS),3) --dist worksteal)
	$(call passes,"alone and not slow and not ray",-n $(or $(JOBS),2) --dist worksteal)

test-slow: $(READY)
	$(call passes,slow,-n $(or $(JOBS),3) --dist worksteal)

# In the versions of the image, whose lock holds the extra; a store like S3 (moto) is of these tests alone.
test-ray: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r tests/on_ray/requirements.lock
	$(call passes,ray,tests/on_ray tests/analysis/exports)

fuzz: $(READY)
	for target in $(or $(TARGET),responses events payloads specs traces captures); do \
		$(BIN)/python tests/fuzz/fuzz.py $$target $(or $(TIME),60) || exit 1; \
	done

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Rewrites requirements.lock: run it after a change of the dependencies, then read the difference.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --no-header --extra plots --group dev --output-file requirements.lock pyproject.toml
	uv pip compile --quiet --python-platform linux --python-version 3.11 --no-header --extra plots --extra ray --extra tiktoken --extra tokenizers \
		--output-file deploy/requirements.lock pyproject.toml deploy/requirements.in
	uv pip compile --quiet --python-platform linux --python-version 3.11 --no-header --constraint deploy/requirements.lock --extra ray \
		--output-file tests/on_ray/requirements.lock pyproject.toml tests/on_ray/requirements.in

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis
