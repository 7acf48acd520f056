# Two commands matter: `make demo` and `make test`. Both need git, make, python3 and nothing else; what is missing
# they install (root or sudo on Debian and Ubuntu) or name. Run again, they are quick and change nothing.

PYTHON ?= python3
ENGINE := $(PYTHON) scripts/engine.py
IN_VENV := env PATH="$(CURDIR)/.venv/bin:$$PATH"
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help demo test lint engine services stress bench clean venv tools test-tools

help:  ## show this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 16

demo: venv tools  ## run the example: data, two experiments, and which was best
	@$(ENGINE) exec -- $(IN_VENV) bash examples/digits/demo.sh

test: lint test-tools  ## lint, then all tests, against a real engine
	@$(ENGINE) exec -- $(IN_VENV) pytest -n auto --maxprocesses 4 --dist loadfile

lint: venv  ## ruff and mypy
	@$(IN_VENV) ruff check --quiet .
	@$(IN_VENV) ruff format --check --quiet .
	@$(IN_VENV) mypy --no-error-summary

engine:  ## make sure that a container engine runs, and leave it running
	@$(ENGINE) up

services: venv tools  ## the image and the keys of a team's store and registry, for compose/services.yaml
	@$(ENGINE) exec -- $(IN_VENV) compose/prepare.sh

stress: venv test-tools  ## the slow and violent tests
	@$(PYTHON) scripts/packages.py ceph-mon ceph-osd crun qemu-system-x86 radosgw
	@$(IN_VENV) uv pip install --quiet --python .venv/bin/python 'atheris>=3,<4'
	@$(ENGINE) exec -- $(IN_VENV) env MIRAGE_STRESS_TABLE=build/stress.jsonl pytest -m stress tests/stress \
		-n auto --maxprocesses 4 --dist load

bench: venv test-tools  ## the measurements behind the figures in docs
	@$(ENGINE) exec -- $(IN_VENV) python -m bench $(BENCH)

clean:  ## remove .venv and the tools' caches
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	@find orchestrator mirage scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

venv:
	@$(PYTHON) scripts/venv.py

tools:
	@$(PYTHON) scripts/packages.py git mmdebstrap

test-tools:
	@$(PYTHON) scripts/packages.py git mmdebstrap docker-registry graphviz iproute2 libfaketime e2fsprogs openssh-client openssl \
		skopeo strace chromium docker-compose rootlesskit slirp4netns uidmap xfsprogs btrfs-progs fuse3
