# `make demo` and `make test` set everything up on a fresh machine with Python 3.11, make and pip.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready
OUT ?= runs/$(if $(SCENARIO),$(SCENARIO),$(if $(DATA),generic,phantoms))
QUIET := FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 \
	FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 MLFLOW_DISABLE_TELEMETRY=true

.PHONY: demo test check faults bench clean

demo: $(READY)
	$(QUIET) $(BIN)/oneslice simulate run $(if $(SCENARIO),$(SCENARIO),$(if $(DATA),generic,phantoms)) \
		$(if $(DATA),--data "$(DATA)") --out "$(OUT)"

test: check
	$(QUIET) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Ten minutes, most of it waiting for Flower to notice that something died.
faults: $(READY)
	$(QUIET) $(BIN)/python -m pytest tests/federation/test_faults.py -m faults

bench: $(READY)
	$(QUIET) $(BIN)/python -m simulations.bench engine
	$(QUIET) $(BIN)/python -m simulations.bench_page
	$(QUIET) $(BIN)/python -m simulations.bench_inference
	$(QUIET) $(BIN)/python -m simulations.bench hospitals
	$(QUIET) $(BIN)/python -m simulations.bench poisoning
	$(QUIET) $(BIN)/python -m simulations.bench privacy
	$(QUIET) $(BIN)/python -m simulations.bench memory
	$(QUIET) $(BIN)/python -m simulations.bench_deployed rounds
	$(QUIET) $(BIN)/python -m simulations.bench_deployed rounds --channels 900 --rounds 3
	$(QUIET) $(BIN)/python -m simulations.bench_deployed kills
	$(QUIET) $(BIN)/python -m simulations.bench speed --data "$(or $(DATA),../shared/data/hippocampus)"
	$(QUIET) $(BIN)/python -m simulations.bench training --data "$(or $(DATA),../shared/data/hippocampus)"
	$(QUIET) $(BIN)/oneslice simulate propagation --data "$(or $(DATA),../shared/data/hippocampus)" --plane sagittal --slice-choice oracle,representative --seeds 3
	$(QUIET) $(BIN)/python -m simulations.bench late --data "$(or $(DATA),../shared/data/hippocampus)"
	$(QUIET) $(BIN)/python -m simulations.bench poisoning --data "$(or $(DATA),../shared/data/hippocampus)"
	$(QUIET) $(BIN)/python -m simulations.bench interactive --data "$(or $(DATA),../shared/data/hippocampus)"
	$(QUIET) $(BIN)/python -m simulations.bench labels --data "$(or $(DATA),../shared/data/hippocampus)"
	$(QUIET) $(BIN)/python -m simulations.bench students --data "$(or $(DATA),../shared/data/hippocampus)"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,simulation,dicom,dp,export]"
	touch $(READY)

clean:
	rm -rf .venv runs
