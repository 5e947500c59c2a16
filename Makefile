# Two commands do all the set-up on a fresh machine: make quickstart, make test.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: quickstart test test-cluster lint soak docs install clean

quickstart: $(VENV)/.installed   ## a small sweep on this machine: trained, evaluated, reported
	$(BIN)/python train.py experiment=quickstart
	@echo 'Look at outputs/report/index.html. For the other commands: . $(BIN)/activate'

test: $(VENV)/.tested            ## the tests
	$(BIN)/python -m pytest -n auto --dist worksteal

test-cluster: $(VENV)/.tested    ## preemption and time-out on a real Slurm: sbatch on the PATH, partitions LOW=low and HIGH=high
	$(BIN)/python -m pytest -m cluster tests/test_cluster.py

lint: $(VENV)/.tested            ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.tested            ## kills, damaged files, full disks, crowds: an hour; SOAK="kills=1000" for more
	$(BIN)/python benchmarks/soak/run.py $(SOAK)

docs: $(VENV)/.documented        ## the documentation site, in site/
	$(BIN)/mkdocs build -q

install: $(VENV)/.installed

# pip's own settings are respected: a machine with a CPU wheel of torch gets that one.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e . -c constraints.txt
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[test]' -c constraints.txt
	touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[docs]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) outputs
