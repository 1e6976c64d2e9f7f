PY ?= .venv/bin/python
FOLDERS := benchmark calibration cli examples export grpc_service optimize profiles runtime

# `edgellama.*` as real paths, for tools that read files and run no import hook (mypy, protoc).
.view:
	mkdir -p $@/edgellama
	ln -sfn $(addprefix ../../,$(FOLDERS)) $@/edgellama/
