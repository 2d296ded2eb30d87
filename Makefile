# Each target is one line; .venv is made the first time, from a bare Python 3.11.
PYTHON  ?= python3.11
PROFILE ?= demo
DATA    ?=
BIN     := .venv/bin
export JUPYTER_PREFER_ENV_PATH := 1

.PHONY: demo run test lab results covid-results notebooks reference format lock clean

demo: .venv/installed            ## the main job on the built-in synthetic cohort
	$(BIN)/python -m forget_mi run demo

run: .venv/installed             ## PROFILE=covid DATA=folder: the five notebooks on a profile
	$(BIN)/python -m forget_mi run $(PROFILE) $(if $(DATA),--data $(DATA))

test: .venv/installed            ## lint, unit tests, notebooks end to end, regression on their printed results
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -m pytest

lab: .venv/installed             ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=. notebooks/01_cohort.ipynb

results: .venv/installed         ## three seeds at 3 and 10 %: figures/results.csv, the figures, the README's table
	$(BIN)/python -m forget_mi results

covid-results: .venv/installed   ## DATA=folder: the covid profile, figures/covid.csv and the README's table of it
	$(BIN)/python -m forget_mi covid-results --data $(DATA)

notebooks: .venv/installed       ## rebuild the committed notebooks' outputs
	$(BIN)/python -m forget_mi notebooks

reference: .venv/installed       ## rebuild the reference outputs that the tests compare with
	$(BIN)/python -m forget_mi reference

format: .venv/installed          ## ruff over code and notebooks
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: .venv/installed            ## write what is installed to requirements.lock
	$(BIN)/pip freeze --exclude-editable > requirements.lock

clean:                           ## remove the environment and all runs
	rm -rf .venv runs

.venv/installed: pyproject.toml requirements.lock
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	touch $@
