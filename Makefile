# Everything around the code. `make demo` and `make test` are what a newcomer needs; the rest are their parts.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules

# Thousands of short programs run in the tests, and each would compile its sources anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
COLLECTION := .build/ansible_collections/evenkeel/fault_tolerance
# Users' own settings must not decide whether our tests pass.
CLEAN_ENV := env -u ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH=$(CURDIR)/.build PATH="$(CURDIR)/$(BIN):$$PATH"
# The lab starts containers with systemd inside: root, on Debian. LAB=no leaves it out, LAB=yes insists on it.
LAB ?= $(shell [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ] && echo yes || echo no)
# Tests of crashes, of fidelity and of PostgreSQL need these, as command:package.
TEST_TOOLS = missing=; [ "$(LAB)" != yes ] || \
	for tool in strace:strace rsync:rsync mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs \
	getfattr:attr setfacl:acl bsdtar:libarchive-tools restic:restic pg_createcluster:postgresql; do \
	command -v $${tool%:*} >/dev/null || missing="$$missing $${tool\#*:}"; done; \
	[ -z "$$missing" ] || { apt-get update -qq; apt-get install --yes -qq $$missing; }
# So many labs stand side by side in the tests of the flows, and so many processes run unit tests.
LABS ?= 2
# The newest ansible-core needs Python 3.12; empty where there is none.
NEWER = $(shell .ci/python 3.12 3.14 2>/dev/null)

.PHONY: help demo test test-long others checks lint options types unit unit-2.21 sanity sanity-long sanity-2.21 crash test-crash fuzz fuzz-short vm \
	integration molecule bench wheel galaxy docs targets clean

help: ## show this
	@grep -hE '^[a-z0-9.-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: .venv/runtime.stamp ## the story in four acts, on three small hosts inside a folder; needs no root
	@$(BIN)/evenkeel-demo

# Tests on hosts mostly wait. Those that need no host get the time that these leave of the processors, in three rows, of
# which the third begins after molecule.
test: .venv/test.stamp $(COLLECTION) $(if $(NEWER),.build/core-2.21/stamp) ## everything; says what it leaves out
	@$(TEST_TOOLS)
	@$(BIN)/python .ci/side-by-side integration="$(MAKE) integration" units="nice $(MAKE) unit" \
	molecule-then-others="$(MAKE) molecule && nice $(MAKE) others" checks="nice $(MAKE) checks"

others: unit-2.21 fuzz-short

checks: lint types wheel docs sanity targets crash

lint: .venv/test.stamp $(COLLECTION) ## ruff, ansible-lint (production), the changelog's fragments
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/antsibull-changelog lint
	$(CLEAN_ENV) $(BIN)/ansible-lint --nocolor

options: .venv/test.stamp $(COLLECTION) ## write what follows from the options of kinds, probes and modules
	$(BIN)/python .ci/options

types: .venv/test.stamp $(COLLECTION) ## mypy
	$(BIN)/mypy $(COLLECTION)/plugins src tests

unit: .venv/test.stamp ## pytest on ansible-core 2.19
	$(BIN)/python -m pytest -m 'not long' --numprocesses=$(LABS) --dist=loadfile

# What runs on hosts knows nothing of ansible-core, nor do most tests of the driver, and those of names, pages and rooms.
# Of the actions and of the roles' plays, which take long, some are enough: make test-long runs all of them on that Python
# as well.
unit-2.21: $(if $(NEWER),.build/core-2.21/stamp) ## those of plugins, and of the driver with Ansible, on 2.21
ifdef NEWER
	.build/core-2.21/bin/python -m pytest -q -m 'not long' -k 'not schedule_refuses and not role_postgresql' \
	tests/unit/plugins/plugin_utils tests/unit/test_options_agree.py \
	$(addprefix tests/unit/plugins/action/test_,answer.py settle.py) \
	$(addprefix tests/unit/driver/test_,asking.py events.py options.py plays.py runner.py session.py targets.py) \
	tests/unit/test_roles.py $(wildcard tests/unit/plugins/filter tests/unit/plugins/callback)
else
	@echo "Left out: unit tests on ansible-core 2.21 (no Python 3.12 or newer with venv found)"
endif

# The oldest Python of hosts, and the one of the controller here. make test-long takes all that are found.
sanity: .venv/test.stamp ## ansible-test sanity, from a real collection path
	PYTHONS="9 $$($(BIN)/python -c 'import sys; print(sys.version_info[1])')" .ci/sanity .venv

sanity-long: .venv/test.stamp
	.ci/sanity .venv

targets: .venv/test.stamp ## ansible-test integration, for what needs no fleet and no root
	.ci/targets .venv

sanity-2.21: $(if $(NEWER),.build/core-2.21/stamp)
ifdef NEWER
	.ci/sanity .build/core-2.21
else
	@echo "Left out: sanity on ansible-core 2.21 (no Python 3.12 or newer with venv found)"
endif

integration: .venv/test.stamp $(COLLECTION) ## the flows on real hosts in the lab
ifeq ($(LAB),yes)
	$(BIN)/python tests/lab/lab.py build
	$(CLEAN_ENV) $(BIN)/python -m pytest -m 'not long' --numprocesses=$(LABS) --dist=loadscope --durations=15 \
	$(wildcard tests/lab tests/integration)
else
	@echo "Left out: tests on the lab (it needs root on Debian; LAB=yes tries it anyway)"
endif

crash: .venv/test.stamp $(COLLECTION) ## kills, faults and power cuts at a sample of the system calls
	@$(TEST_TOOLS)
	$(CLEAN_ENV) $(BIN)/python -m pytest tests/crash

fuzz-short: .venv/test.stamp
	$(BIN)/python -m pytest -q tests/fuzz

# Where atheris cannot be had (it is built for some versions of Python), inputs come by chance.
FUZZ_SECONDS ?= 600
fuzz: .venv/test.stamp ## every parser of others' bytes, FUZZ_SECONDS (600) each; what was found lies in .build/fuzz/found
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements/fuzz.txt && how=--guided || how=; \
	for target in $$($(BIN)/python tests/fuzz/run.py --list); do \
	$(BIN)/python tests/fuzz/run.py $$target --seconds $(FUZZ_SECONDS) $$how; done

test-long: sanity-long sanity-2.21 test-crash fuzz ## what takes too long for make test: every crash point, storms, deadlines ten times
	$(BIN)/python -m pytest -q -m long
ifdef NEWER
	.build/core-2.21/bin/python -m pytest -q
endif
ifeq ($(LAB),yes)
	$(BIN)/python tests/lab/lab.py build
	$(CLEAN_ENV) $(BIN)/python -m pytest -m long tests/lab tests/integration
	$(MAKE) vm
else
	@echo "Left out: the long tests on the lab (it needs root on Debian; LAB=yes tries it anyway)"
endif

# Software emulation: one boot takes half a minute on an idle processor, and minutes on a busy one. Two machines at once,
# of one processor each.
VM_TOOLS = qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils mmdebstrap:mmdebstrap mke2fs:e2fsprogs \
	mkfs.vfat:dosfstools mcopy:mtools /usr/share/OVMF/OVMF_CODE_4M.fd:ovmf
vm: .venv/test.stamp $(COLLECTION) ## boots that a change plans, good ones and bad ones, in virtual machines (VM_TIMES=3)
ifeq ($(LAB),yes)
	@missing=; for tool in $(VM_TOOLS); do command -v $${tool%:*} >/dev/null || [ -e $${tool%:*} ] || missing="$$missing $${tool#*:}"; done; \
	[ -z "$$missing" ] || { apt-get update -qq; apt-get install --yes -qq --no-install-recommends $$missing; }
	rm -f .build/vm/measured
	for n in $$(seq $(VM_TIMES)); do $(CLEAN_ENV) $(BIN)/python -m pytest --numprocesses=2 tests/vm; done
	cat .build/vm/measured
else
	@echo "Left out: virtual machines (they need root on Debian; LAB=yes tries it anyway)"
endif
VM_TIMES ?= 1

test-crash: .venv/test.stamp $(COLLECTION) ## the long version: every one of them, half an hour
	@$(TEST_TOOLS)
	EVENKEEL_CRASH=all $(CLEAN_ENV) $(BIN)/python -m pytest tests/crash

SCENARIOS = $(patsubst extensions/molecule/%/molecule.yml,%,$(wildcard extensions/molecule/*/molecule.yml))
molecule: .venv/test.stamp $(COLLECTION) ## the roles' scenarios, on the lab
ifeq ($(LAB),yes)
	trap 'pkill -P $$$$ || true; for one in $(SCENARIOS); do $(BIN)/python tests/lab/lab.py down --name molecule-$$one; done' EXIT; \
	$(CLEAN_ENV) molecule -c extensions/molecule/config.yml test $(SCENARIOS:%=-s %)
else
	@echo "Left out: molecule (the lab needs root on Debian; LAB=yes tries it anyway)"
endif

bench: .venv/test.stamp $(COLLECTION) ## checkpoints against restic, borg, rsync, PostgreSQL; transactions against ansible-playbook; footprints
	$(CLEAN_ENV) $(BIN)/python tests/benchmark/checkpoint.py
	$(CLEAN_ENV) $(BIN)/python tests/benchmark/postgresql.py
	$(CLEAN_ENV) $(BIN)/python tests/benchmark/replicate.py
	$(CLEAN_ENV) $(BIN)/python tests/benchmark/overhead.py
	$(CLEAN_ENV) $(BIN)/python tests/benchmark/footprint.py

wheel: .venv/runtime.stamp ## dist/evenkeel-*.whl, tried in an empty environment
	$(BIN)/python -m pip wheel -qq --no-deps --wheel-dir dist .
	.ci/wheel

docs: .build/docs-venv/stamp $(COLLECTION) ## the reference site, strict: .build/docs/html/index.html
	.ci/docs .venv .build/docs-venv

galaxy: .build/galaxy/stamp ## dist/evenkeel-fault_tolerance-*.tar.gz, and Galaxy's own check of it
	.ci/galaxy

clean: ## remove what make made
	rm -rf .venv .build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .ansible
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is younger than what it was made from, so that a second call installs nothing.
.venv/runtime.stamp: requirements/runtime.txt requirements/constraints.txt pyproject.toml hatch_build.py
	@python=$$(.ci/python 3.11 3.14); echo "Installing into .venv ($$python)"; "$$python" -m venv .venv
	$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements/runtime.txt -c requirements/constraints.txt
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/test.stamp: .venv/runtime.stamp requirements/test.txt
	$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements/test.txt -c requirements/constraints.txt
	@touch $@

.build/core-2.21/stamp: requirements/core-2.21.txt pyproject.toml
	$(NEWER) -m venv .build/core-2.21
	.build/core-2.21/bin/python -m pip install -qq --disable-pip-version-check -r requirements/core-2.21.txt
	.build/core-2.21/bin/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $@

.build/docs-venv/stamp: requirements/docs.txt
	python=$$(.ci/python 3.11 3.14); "$$python" -m venv .build/docs-venv
	.build/docs-venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements/docs.txt
	@touch $@

.build/galaxy/stamp: requirements/galaxy.txt
	python=$$(.ci/python 3.11 3.13); "$$python" -m venv .build/galaxy
	.build/galaxy/bin/python -m pip install -qq --disable-pip-version-check -r requirements/galaxy.txt
	@touch $@

$(COLLECTION): .venv/runtime.stamp
	@$(BIN)/python -c 'from evenkeel.collection import collections_path; collections_path()'
