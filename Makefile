# The interpreter that makes the environment; 3.11 is the one of constraints.txt.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# More options for pip, for example: PIP_EXTRA='--extra-index-url https://download.pytorch.org/whl/cpu'
PIP_EXTRA ?=
# What `make engine`, `make serve` and `make bench` work on; MODEL and OUT default to the profile's.
PROFILE ?= cpu-tiny
MODEL ?=
OUT ?=
BACKEND ?=
PORT ?= 50051
# How many processes run the tests.
JOBS ?= 2
# Each of the many processes of the tests would compile the project's modules again.
unexport PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
BIN := .venv/bin
ENVIRONMENT := .venv/.installed
PYTEST = $(BIN)/pytest -q --numprocesses $(JOBS) --dist worksteal
FOLDERS := benchmark calibration cli examples export grpc_service optimize profiles runtime
GRPC_TOOLS := grpcio-tools==1.76.0
# The bindings that `make trt-stubs` reads, and the program that does.
STUB_TOOLS := numpy==2.4.6 pybind11-stubgen==3.0.0 typing_extensions==4.16.0
STUB_BINDINGS := tensorrt-cu13-bindings==11.4.0.106 tensorrt_rtx_cu13_bindings==1.7.1.116

.PHONY: help demo engine serve bench verify-gpu test test-slow check proto trt-stubs clean

# List the targets with their comments.
help:
	@awk '/^# /{text=substr($$0,3)} /^[a-z][a-z-]*:/{sub(":.*","",$$1); printf "%-10s %s\n", $$1, text}' Makefile

# The virtual environment with everything; redone when its requirements change.
.venv: $(ENVIRONMENT)

$(ENVIRONMENT): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --quiet --no-compile $(PIP_EXTRA) -c constraints.txt \
		-e '.[bench,compile,calibrate,cpu,dev,kernels,tensorrt-rtx]'
	$(PY) -m compileall -qq -j 0 .venv/lib || true # templates are no Python; pip has one process
	touch $@

# `edgellama.*` as real paths, for tools that read files and run no import hook (mypy, protoc).
.view: Makefile
	mkdir -p $@/edgellama
	ln -sfn $(addprefix ../../,$(FOLDERS)) $@/edgellama/
	touch $@

# Build the tiny engine, serve it, and stream three answers through the gRPC client.
demo: $(ENVIRONMENT)
	$(BIN)/edgellama build cpu-tiny
	$(PY) -m edgellama.examples.demo engines/cpu-tiny

# Build the engine of a profile: make engine PROFILE=cpu-1b [MODEL=path or hub id] [OUT=folder]
# [BACKEND=tensorrt-rtx].
engine: $(ENVIRONMENT)
	$(BIN)/edgellama build $(PROFILE) $(if $(MODEL),--model $(MODEL)) $(if $(OUT),--out $(OUT)) \
		$(if $(BACKEND),--backend $(BACKEND))

# Serve the engine of a profile: make serve PROFILE=cpu-1b [PORT=50051].
serve: $(ENVIRONMENT)
	$(BIN)/edgellama serve $(PROFILE) --port $(PORT)

# Measure the engine of a profile, built where it is missing: latency, serving, instructions, a page
# and plots in docs/measurements/<date>-<profile>: make bench PROFILE=cpu-1b [OUT=folder].
bench: $(ENVIRONMENT)
	test -d engines/$(PROFILE) || $(MAKE) --no-print-directory engine OUT=
	$(BIN)/edgellama bench all engines/$(PROFILE) $(if $(OUT),--out $(OUT))

# Prove on a GPU what no other machine can, and write a report: make verify-gpu [OUT=folder]
# [PROFILE=l4-1b] [MODEL=path or hub id].
verify-gpu: $(ENVIRONMENT)
	$(BIN)/edgellama verify-gpu $(if $(OUT),--out $(OUT)) $(if $(MODEL),--model $(MODEL)) \
		$(if $(filter command environment,$(origin PROFILE)),--profile $(PROFILE))

# The quick tests, some ten minutes on two cores: make test [JOBS=8].
test: $(ENVIRONMENT)
	$(PYTEST) -m "not slow and not gpu"

# The slow tests: whole builds, wheels, other interpreters.
test-slow: $(ENVIRONMENT)
	$(PYTEST) -m "slow and not gpu"

# Lint, format, types and the quick tests: what must pass before a commit.
check: $(ENVIRONMENT) .view
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory test

# Generate the Python of the .proto files.
proto: .venv-proto .view
	.venv-proto/bin/python -m grpc_tools.protoc -Iedgellama/grpc_service=grpc_service \
		--python_out=.view --pyi_out=.view --grpc_python_out=.view $(wildcard grpc_service/*.proto)

# The oldest grpcio-tools that a device may have: generated code refuses an older runtime. It needs
# an older protobuf than the rest, hence an environment of its own.
.venv-proto:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet '$(GRPC_TOOLS)' || { rm -rf $@; exit 1; }

# Generate the type stubs of TensorRT's bindings: a wheel without libraries, no GPU, gcc.
trt-stubs: .venv-stubs
	.venv-stubs/bin/python typings/generate.py typings

# Bindings without their libraries: an environment that runs nothing else.
.venv-stubs: Makefile
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install --quiet --no-deps $(STUB_TOOLS) $(STUB_BINDINGS) || \
		{ rm -rf $@; exit 1; }

# Remove what was made: environments, links, engines, caches.
clean:
	rm -rf .venv .venv-proto .venv-stubs .view engines build dist *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
