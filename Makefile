# Each target does its own set-up: a virtual environment in .venv, made anew when the dependencies change.
PYTHON ?= python3
BIN := .venv/bin
SWIFT := .venv-swift/bin
ROUNDS ?= 3
JOBS ?= 2

.PHONY: demo paper test benchmark clean

demo: .venv/.installed            ## the whole experiment on the embedded default, then its page
	$(BIN)/python train.py -cd sweeps -cn demo
	$(BIN)/python report.py sweeps/demo.yaml

# What computes the cells that others share stands first, JOBS sweeps at a time, as the small models take one thread.
# make paper ARGS="seed=0 task=..." reaches every sweep.
PAPER := table1 table2 figure1 figure3 figure4 figure5 figure6 table3 table4 table5 table6 tableS1 \
	tableS2 figureS1 figureS2

paper: .venv/.installed           ## every table and figure of the paper on the embedded default, then one page of all
	$(MAKE) --no-print-directory --jobs=$(JOBS) $(PAPER:%=paper-%)
	$(BIN)/python report.py $(PAPER:%=sweeps/%.yaml) $(ARGS)

paper-%: SHELL := /bin/bash -o pipefail
paper-%: .venv/.installed         ## one of them; what two sweeps need, one computes and the other waits for
	@$(BIN)/python train.py -cd sweeps -cn $* $(ARGS) 2>&1 | (trap "" INT; sed -u "s/^/$*: /")

test: .venv/.installed-test       ## lint, types, layers, and every test that needs no GPU
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2 --dist loadfile

benchmark: .venv/.installed-bench .venv-swift/.installed ## speed against the naive way, TRL and ms-swift, as ratios within one run
	$(BIN)/python benchmarks/labelling.py --rounds $(ROUNDS)
	$(BIN)/python benchmarks/grpo_loss.py --rounds $(ROUNDS)
	$(BIN)/python benchmarks/sft.py --rounds $(ROUNDS)
	$(BIN)/python benchmarks/grpo.py --rounds $(ROUNDS)

.venv/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "dcsft needs Python 3.11 or newer"'
	$(PYTHON) -m venv .venv || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; rm -rf .venv; exit 1; }

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.venv/.installed-bench: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	touch $@

# ms-swift wants other versions of our dependencies; it imports torchvision, but needs nothing of it.
.venv-swift/.installed: Makefile
	$(PYTHON) -m venv .venv-swift
	$(SWIFT)/pip install --quiet --disable-pip-version-check torch==2.13.0 ms-swift==4.6.0 msgspec
	$(SWIFT)/pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0 qwen_vl_utils==0.0.14 av==18.1.0
	touch $@

clean:                            ## everything that was computed or installed
	rm -rf .venv .venv-swift outputs/store outputs/runs outputs/sweeps outputs/report
