# dkr: `make help` tells what there is to do. The work is in scripts/; this file says where things go.

PREFIX      ?= /opt/dkr
BINDIR      ?= /usr/bin
SBINDIR     ?= /usr/sbin
SYSUSERSDIR ?= /usr/lib/sysusers.d
TMPFILESDIR ?= /usr/lib/tmpfiles.d
UNITDIR     ?= /usr/lib/systemd/system
MANDIR      ?= /usr/share/man
BASHCOMPDIR ?= /usr/share/bash-completion/completions
ZSHCOMPDIR  ?= /usr/share/zsh/vendor-completions
FISHCOMPDIR ?= /usr/share/fish/vendor_completions.d
DESTDIR     ?=

# The install that the tests drive: outside the checkout, which other users may not be able to reach.
TEST_PREFIX := /opt/dkr-test

# What `make run` runs, in the words of `dkrctl run`, as in: make run ARGS="--rm --hostname box /bin/hostname"
ARGS ?=
# What `make test` tests, and how: make test TESTS="tests/unit -k frames"
TESTS ?= tests/unit tests/integration tests/security tests/reliability tests/packaging tests/vm
# A worker for each processor; `make test WORKERS=` lets one do all.
WORKERS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

INSTALL  := PREFIX=$(PREFIX) BINDIR=$(BINDIR) SBINDIR=$(SBINDIR) SYSUSERSDIR=$(SYSUSERSDIR) TMPFILESDIR=$(TMPFILESDIR) UNITDIR=$(UNITDIR) \
            MANDIR=$(MANDIR) BASHCOMPDIR=$(BASHCOMPDIR) ZSHCOMPDIR=$(ZSHCOMPDIR) FISHCOMPDIR=$(FISHCOMPDIR) \
            DESTDIR=$(DESTDIR) scripts/install.sh
INSTALL_TEST := PREFIX=$(TEST_PREFIX) BINDIR=$(TEST_PREFIX)/bin SBINDIR=$(TEST_PREFIX)/sbin SYSUSERSDIR= TMPFILESDIR= UNITDIR= \
            MANDIR= BASHCOMPDIR= ZSHCOMPDIR= FISHCOMPDIR= DESTDIR= scripts/install.sh
PYTEST   := DKR_TEST_PREFIX=$(TEST_PREFIX) .venv/bin/python -m pytest

.PHONY: help run install uninstall test test-vm test-install test-prefix test-current dev lint format bench soak lock dist deb clean

help:
	@echo 'make run        start the daemon if none answers, and a shell in a fresh container; ARGS="..." for another run'
	@echo 'make test       every test but the long ones; half an hour where nothing is there yet'
	@echo 'make test-vm    all tests in virtual machines with systemd: activation, restarts, reboots, packages, kernels'
	@echo 'make install    PREFIX=$(PREFIX) BINDIR=$(BINDIR) SBINDIR=$(SBINDIR) DESTDIR=$(DESTDIR)'
	@echo 'make uninstall  what install placed'
	@echo 'make lint       ruff and mypy; make format rewrites'
	@echo 'make bench      measurements against other runtimes; make soak: tests that run for minutes'
	@echo 'make dist       wheel and source distribution, in dist/; make deb: those and a Debian package'
	@echo 'make dev        .venv, for editors and single tests; make lock renews requirements/'
	@echo 'make clean      what make made in this directory'

run:
	@scripts/root.sh "make run"
	@scripts/setup-debian.sh run
	@$(INSTALL) install
	@scripts/run.sh $(PREFIX) $(BINDIR) $(SBINDIR) $(ARGS)

install:
	@$(INSTALL) install

uninstall:
	@$(INSTALL) uninstall

test: dev test-install
	@DKR_SKIPS_FAIL=1 $(PYTEST) $(WORKERS) -m "not soak and not bench" $(TESTS)

# Emulated, so no other test is as slow. What takes longest is marked soak, too.
test-vm: dev
	@scripts/root.sh "make test-vm"
	@scripts/setup-debian.sh run deb vm
	@DKR_SKIPS_FAIL=1 $(PYTEST) -m vm tests/vm

test-install:
	@scripts/root.sh "make test"
	@scripts/setup-debian.sh run test deb vm
	@$(INSTALL_TEST) install

# For the tests' harness: where the test install is, and whether it is what this tree would install.
test-prefix:
	@echo $(TEST_PREFIX)

test-current:
	@$(INSTALL_TEST) check

dev:
	@scripts/setup-debian.sh run
	@scripts/dev.sh

lint: dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: dev test-install
	@scripts/setup-debian.sh bench
	@DKR_TEST_PREFIX=$(TEST_PREFIX) .venv/bin/python tests/bench/run.py

soak: dev test-install
	@DKR_SKIPS_FAIL=1 $(PYTEST) -m soak tests

lock: dev
	scripts/lock.sh $(LOCKFLAGS)

dist:
	@scripts/setup-debian.sh run
	@scripts/dist.sh

deb: dist
	@scripts/setup-debian.sh deb
	@scripts/deb.sh

clean:
	rm -rf build dist .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
