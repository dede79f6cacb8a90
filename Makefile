# The two commands are `make book` and `make test`. Works with GNU make 3.81 (macOS) and newer.
# All targets set up .venv first, once, and again only when requirements.lock or pyproject.toml changed.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
# Lies outside .venv, for making .venv again empties it.
UNFINISHED := .venv.unfinished
ARGS ?=
# One process per core, with one thread each; tests/conftest.py says in which order and groups.
SIDE_BY_SIDE := -n auto --dist loadgroup --no-loadscope-reorder

.PHONY: help setup book test check quickstart lab bench lint student lock clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## make .venv from requirements.lock (every other target does this by itself)

# A stamp made in another folder means that this tree was copied or moved: its .venv points there.
ifneq ("$(shell cat $(STAMP) 2>/dev/null)","$(CURDIR)")
.PHONY: $(STAMP)
endif

$(STAMP): requirements.lock pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no program '$(PYTHON)'. RLHF Lite needs Python 3.11.5 or newer: install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; v >= (3, 11, 5) or sys.exit("RLHF Lite needs Python 3.11.5 or newer, and %s is Python %d.%d.%d. Install a newer one, or name it: make PYTHON=/path/to/python3.11" % (sys.executable, *v[:3]))'
	@if [ -e $(UNFINISHED) ] || [ "$$(cat $(STAMP) 2>/dev/null)" != "$(CURDIR)" ]; then \
		echo "Setting up $(VENV), once: one to ten minutes, by the speed of the network"; touch $(UNFINISHED); "$(PYTHON)" -m venv --clear $(VENV); fi
	@touch $(UNFINISHED)
	$(PY) tools/set_up.py
	@rm -f $(UNFINISHED)
	@printf '%s\n' "$(CURDIR)" > $(STAMP)

book: $(STAMP) ## execute what is not fresh and build the site: _build/html/index.html
	$(PY) tools/build_book.py $(ARGS)

test: $(STAMP) ## everything: units, parity, mutations, all chapters, the built site in Chromium (20 to 25 minutes)
	$(PY) -m pytest $(SIDE_BY_SIDE) --durations=10 --durations-min=10 $(ARGS)

check: lint ## lint and the quick tests: no chapter, no site, nothing slow (3 minutes)
	$(PY) -m pytest $(SIDE_BY_SIDE) -m "not slow and not notebooks and not site" $(ARGS)

quickstart: $(STAMP) ## the whole RLHF pipeline on real human ratings, in about five minutes
	$(VENV)/bin/rlhf-lite quickstart $(ARGS)

lab: $(STAMP) ## open the chapters in JupyterLab
	$(PY) -m jupyterlab --notebook-dir=notebooks $(ARGS)

bench: $(STAMP) build/trl-1.12 ## our sampling and trainers against transformers and TRL, side by side (an hour)
	$(PY) -m benchmarks.sampling $(ARGS)
	$(PY) -m benchmarks.training $(ARGS)

# The last TRL with PPO, beside the one in .venv, on the same libraries.
build/trl-1.12: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --target $@ trl==1.12.0

lint: $(STAMP) ## ruff on the package, the tools, the tests and the notebooks
	$(PY) -m ruff check .

student: $(STAMP) ## make the students' copies of the chapters, without solutions
	$(PY) tools/make_student.py $(ARGS)

lock: ## resolve pyproject.toml anew in a fresh environment and write requirements.lock
	$(PYTHON) tools/lock.py

clean: ## remove what was built; keeps .venv, runs/ and the downloaded model
	rm -rf stage _build build .pytest_cache .ruff_cache *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove .venv
	rm -rf $(VENV) $(UNFINISHED)
