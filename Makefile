# Each target is one line; .venv is made the first time, from a bare Python 3.11.
PYTHON  ?= python3.11
PROFILE ?= demo
DATA    ?=
MODEL   ?= runs/demo
PATIENTS ?=
ONLY    ?=
SNAKEMAKE ?=
WORKERS ?= auto
BIN     := .venv/bin
export JUPYTER_PREFER_ENV_PATH := 1

# What the tests compare is computed alike on every x86 processor since 2013: libraries choose instructions by processor
# otherwise, and training makes of a last digit a second decimal.
ALIKE := OMP_NUM_THREADS=1 LOKY_MAX_CPU_COUNT=1 \
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Haswell

.PHONY: demo run shadows beyond year forget serve-requests test test-service test-slurm bench benchmark-store benchmark-released lab explore docs test-browser gpu gpu-wheels memory peers sweep sweep-dry tune ablation calibration results real-results layers notebooks reference format lock clean

demo: .venv/installed            ## the main job on the built-in synthetic cohort
	$(BIN)/python -m forget_mi run demo

run: .venv/installed             ## PROFILE=covid DATA=folder: the five notebooks on a profile
	$(BIN)/python -m forget_mi run $(PROFILE) $(if $(DATA),--data $(DATA))

test: .venv/installed            ## lint, import contracts, unit tests, notebooks end to end, regression on their printed results
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache && $(ALIKE) $(BIN)/python -m pytest --ignore tests/browser -n $(WORKERS) --dist loadfile

test-browser: .venv/installed    ## JupyterLab, the explorer, the site and the slides in a real browser (Debian's chromium)
	@command -v chromium > /dev/null || { echo "no chromium on this machine: apt-get install chromium" >&2; exit 1; }
	$(ALIKE) $(BIN)/python -m pytest tests/browser -n $(WORKERS) --dist loadfile

serve-requests: .venv/installed  ## MODEL=run folder INBOX=folder [POLICY=weekly]: serve forget CSVs dropped into a folder
	$(BIN)/python -m forget_mi serve-requests $(MODEL) $(INBOX) $(if $(POLICY),--policy $(POLICY))

test-service: .venv/installed    ## a real service, killed 100 times and 20 times out of disk, ends as one left alone (Linux, as root)
	$(ALIKE) $(BIN)/python tests/requests/check_service.py

test-slurm: .venv/installed      ## a small sweep on a real Slurm of one node (Debian, as root) equals the local one
	$(BIN)/python tests/slurm/check_slurm.py

shadows: .venv/installed         ## PROFILE=demo: train the models that teach the audit's strongest attacks, once
	$(BIN)/python -m forget_mi shadows $(PROFILE) $(if $(DATA),--data $(DATA)) -- $(SNAKEMAKE)

beyond: .venv/installed          ## PROFILE=demo: the studies past the paper, figures/beyond.csv and what lies beside it
	$(BIN)/python -m forget_mi beyond $(PROFILE) $(if $(DATA),--data $(DATA)) -- $(SNAKEMAKE)

year: .venv/installed            ## PROFILE=demo: a simulated year of requests under every policy, figures/year.csv
	$(BIN)/python -m forget_mi year $(PROFILE) $(if $(DATA),--data $(DATA))

forget: .venv/installed          ## MODEL=run folder PATIENTS=forget CSV: unlearn, audit, report, and keep the ledger
	$(BIN)/python -m forget_mi forget $(MODEL) $(PATIENTS)

lab: .venv/installed             ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=. $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_cohort.ipynb

explore: .venv/installed         ## the explorer as a web page without code, on what make demo left
	cd notebooks && ../$(BIN)/voila explore.ipynb --theme=light

docs: .venv/installed            ## the site and the lessons' slides into docs/_build/html, without a network
	$(BIN)/python docs/build.py

sweep: .venv/installed           ## PROFILE=demo: all approaches x sizes of request x seeds; a rerun finishes what is left
	$(BIN)/python -m forget_mi sweep $(PROFILE) $(if $(DATA),--data $(DATA)) -- $(SNAKEMAKE)

sweep-dry: .venv/installed       ## what make sweep would run
	$(BIN)/python -m forget_mi sweep $(PROFILE) $(if $(DATA),--data $(DATA)) -- --dry-run

tune: .venv/installed            ## PROFILE=demo: choose every approach's hyper-parameters, into params/tuned/
	$(BIN)/python -m forget_mi tune $(PROFILE) $(if $(DATA),--data $(DATA)) -- $(SNAKEMAKE)

ablation: .venv/installed        ## PROFILE=medpix DATA=clone: what helps, one change at a time, on the tuning seeds
	$(BIN)/python -m forget_mi ablation $(PROFILE) $(if $(DATA),--data $(DATA))

calibration: .venv/installed     ## PROFILE=demo: how often the test of one patient accuses strangers, and finds who is known
	$(BIN)/python -m forget_mi calibration $(PROFILE) $(if $(DATA),--data $(DATA))

results: .venv/installed         ## make sweep, then its figures and tables; PROFILE=medpix DATA=clone: those of real patients
	$(BIN)/python -m forget_mi results $(PROFILE) $(if $(DATA),--data $(DATA)) -- $(SNAKEMAKE)

real-results: .venv/installed    ## PROFILE=covid DATA=folder, PROFILE=open-i: run it, figures/PROFILE.csv, the table of docs/real-cohorts.md
	$(BIN)/python -m forget_mi real-results $(PROFILE) $(if $(DATA),--data $(DATA))

layers: .venv/installed          ## docs/architecture.md's picture, from the import contracts; the longest chain of packages
	$(BIN)/python docs/layers.py

notebooks: .venv/installed       ## ONLY="05_compare explore": rebuild the committed notebooks' outputs (all)
	OMP_NUM_THREADS=1 $(BIN)/python -m forget_mi notebooks $(ONLY)

bench: .venv/installed           ## ONLY="a b": what makes it fast, as ratios, into benchmarks/results.csv and .png
	$(BIN)/python benchmarks/run.py $(ONLY)

peers: .venv/installed           ## ONLY="erasus": other packages' methods by their own code on the same model, benchmarks/peers.csv
	$(BIN)/python -m forget_mi shadows demo -- $(SNAKEMAKE)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/peers/run.py $(ONLY)

gpu:                             ## on a machine with a card, without a network: PYTHON=python3 with torch; benchmarks/gpu.csv
	PYTHONPATH=lib $(PYTHON) benchmarks/gpu.py

gpu-wheels: .venv/installed      ## into .wheels/: what a machine without a network may lack to run make gpu (Python 3.12, x86-64)
	$(BIN)/python benchmarks/gpu_wheels.py

memory: .venv/installed          ## PROFILE=mimic-cxr: what fits on cards of 16, 24 and 80 GB, estimated without one
	$(BIN)/python -m forget_mi memory $(PROFILE) $(if $(DATA),--data $(DATA))

benchmark-store: .venv/installed ## decoding 2,000 DICOM files (4 GB of temporary files) against a bare loop
	$(BIN)/python benchmarks/image_store.py

benchmark-released: .venv/installed ## the paper's profile from a released folder at 2048 px: a step, a batch, the peak of memory
	$(BIN)/python benchmarks/released_step.py

reference: .venv/installed       ## rebuild the reference outputs that the tests compare with
	$(ALIKE) $(BIN)/python -m forget_mi reference

format: .venv/installed          ## ruff over code and notebooks
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: .venv/installed            ## write what is installed to requirements.lock
	$(BIN)/pip freeze --exclude-editable > requirements.lock

clean:                           ## remove the environment and all runs
	rm -rf .venv .peers runs

.venv/installed: pyproject.toml requirements.lock
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[all]'
	touch $@
