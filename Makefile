# SPDX-License-Identifier: GPL-2.0-or-later
# `make` prints the targets. Those that test or demonstrate install what they need by themselves
# (Debian and Ubuntu packages as root, Python packages into .venv).

DESTDIR  =
OCF_ROOT = /usr/lib/ocf
SBINDIR  = /usr/sbin
MANDIR   = /usr/share/man
PYTHON   = /usr/bin/python3
AGENTDIR = $(DESTDIR)$(OCF_ROOT)/resource.d/flm
LIBDIR   = $(DESTDIR)$(OCF_ROOT)/lib/flm

APT_RUN  = python3 python3-psutil
APT_DEB  = debhelper dh-python gcc libc6-dev
APT_RPM  = rpm gcc libc6-dev
APT_TEST = $(APT_RUN) $(APT_DEB) $(APT_RPM) python3-venv python3-lxml nfs-common nfs-kernel-server \
	rpcbind iproute2 e2fsprogs util-linux strace libxml2-utils resource-agents pcs crmsh \
	pacemaker-cli-utils sqlite3 qemu-utils qemu-system-common
PY_TEST  = pytest pytest-timeout pytest-xdist hypothesis lxml psutil mypy ruff lxml-stubs types-psutil

VENV     = .venv/bin
# make bench BENCH="takeover --repeat 1": the tables wanted, and how (--help)
BENCH    =
SOURCES  = lib agents agents/nfslock doc tests

help: ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: apt-test .venv/ok callout ## a real failover between two nodes on this machine, told in plain lines
	$(VENV)/python -m tests.host.demo

check: apt-test lint unit host ## lint, unit tests and host tests (root; real rpc.statd)

lint: .venv/ok
	$(VENV)/ruff check $(SOURCES)
	$(VENV)/mypy
	agents/nfslock meta-data | cmp - metadata/nfslock.xml

unit: .venv/ok ## tests that need no root
	$(VENV)/pytest -n 2 tests/unit

host: apt-test .venv/ok callout ## tests with real daemons in namespaces (root)
	$(VENV)/pytest -n 2 tests/host

crash: apt-test .venv/ok callout ## SIGKILL, EIO, ENOSPC at every durable call, power cut at every write (root)
	NFSLOCK_CRASH=all $(VENV)/pytest -s -o timeout=7200 tests/host/test_crash.py \
	  tests/host/test_crash_propagator.py tests/host/test_power_loss.py

FUZZ_SECONDS = 600
fuzz: .venv/ok ## fuzz every parser (FUZZ_SECONDS=600 in all; needs atheris)
	$(VENV)/pip -q --disable-pip-version-check install atheris
	$(VENV)/python tests/fuzz/fuzz_parsers.py $(FUZZ_SECONDS)

bench: APT_TEST += rsync
bench: apt-test .venv/ok .venv/bench-ok ## measure beside sm-notify, cp, rsync and the stock agent
	$(VENV)/python tests/bench/run.py $(BENCH)

callout: build/nfslock-callout ## build statd's callout in C (install takes the Python form without)

build/nfslock-callout: lib/nfslock/callout.c
	mkdir -p build
	$(CC) -std=gnu11 -O2 -Wall -Wextra -static -o $@ $< || \
	  $(CC) -std=gnu11 -O2 -Wall -Wextra -o $@ $<

# The rig's machines are emulated; SUITE= chooses bookworm, trixie (default) or unstable.
# Scenarios that start from the same saved state go to the same process.
CLUSTER = nice -n 5 $(VENV)/pytest -n 2 --dist load --no-loadscope-reorder -o timeout=1200 \
	tests/cluster
images cluster-quick cluster cluster-full demo-cluster: APT_TEST += debootstrap \
	debian-archive-keyring qemu-system-x86 qemu-utils lz4 xz-utils zstd

images: apt-test .venv/ok ## build the virtual machines' images, those that are not there
	$(VENV)/python -m tests.support.vm.images trixie bookworm unstable

cluster-quick: apt-test .venv/ok callout ## the quick scenarios on real kernels in virtual machines (root)
	$(CLUSTER) -m quick

cluster: apt-test .venv/ok callout ## all scenarios on Debian 13, the quick set on Debian 12 and unstable
	SUITE=trixie $(CLUSTER) -m "not full"
	SUITE=bookworm $(CLUSTER) -m quick
	SUITE=unstable $(CLUSTER) -m quick

cluster-full: apt-test .venv/ok callout ## everything on all three; writes doc/proof.md
	for suite in trixie bookworm unstable; do SUITE=$$suite $(CLUSTER); done
	$(MAKE) proof

proof: .venv/ok ## write doc/proof.md and the README's table from the cluster tier's last runs
	$(VENV)/python -m tests.support.vm.report --proof

demo-cluster: apt-test .venv/ok callout ## one power cut in a real cluster, told and drawn
	$(VENV)/python -m tests.support.vm.demo

metadata: ## write metadata/nfslock.xml anew from the parameter declarations
	agents/nfslock meta-data > metadata/nfslock.xml.new
	mv metadata/nfslock.xml.new metadata/nfslock.xml

install: ## install agent, library and command (DESTDIR=, OCF_ROOT=)
	install -d $(AGENTDIR) $(LIBDIR)/nfslock/_vendor $(DESTDIR)$(SBINDIR)
	install -m 0755 agents/nfslock $(AGENTDIR)/nfslock
	install -m 0644 metadata/ra-api.dtd $(LIBDIR)
	install -m 0644 lib/nfslock/*.py $(LIBDIR)/nfslock
	install -m 0644 lib/nfslock/_vendor/*.py $(LIBDIR)/nfslock/_vendor
	chmod 0755 $(LIBDIR)/nfslock/__main__.py $(LIBDIR)/nfslock/callout.py
	if command -v $(CC) >/dev/null; then $(MAKE) -s callout; fi
	install -m 0755 $$(ls build/nfslock-callout 2>/dev/null || echo lib/nfslock/callout.py) \
	  $(DESTDIR)$(SBINDIR)/nfslock-callout
	ln -sfr $(LIBDIR)/nfslock/__main__.py $(DESTDIR)$(SBINDIR)/nfslock
	install -d $(DESTDIR)$(MANDIR)/man7 $(DESTDIR)$(MANDIR)/man8
	doc/manpage.py > $(DESTDIR)$(MANDIR)/man7/ocf_flm_nfslock.7
	install -m 0644 doc/nfslock.8 $(DESTDIR)$(MANDIR)/man8
	$(PYTHON) -m compileall -q -s "$(DESTDIR)" -p / $(LIBDIR)/nfslock

# Packages are built from a copy below build/; a checkout stays as it is.
BUILD    = build
PACKED   = CHANGELOG.md LICENSE Makefile README.md agents doc lib metadata
VERSION  = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' lib/nfslock/__init__.py)
# -d: apt-test sees to what is needed, and build-essential would want a C++ compiler.
# On Debian rpmbuild finds no RPM that would provide gcc and the like.
ON_APT   = $(wildcard /usr/bin/apt-get)

deb: APT_TEST = $(APT_DEB)
deb: apt-test ## build the Debian package, build/deb/*.deb
	rm -rf $(BUILD)/deb
	mkdir -p $(BUILD)/deb/nfslock
	tar -c --exclude=__pycache__ $(PACKED) | tar -x -C $(BUILD)/deb/nfslock
	cp -r packaging/deb $(BUILD)/deb/nfslock/debian
	cd $(BUILD)/deb/nfslock && dpkg-buildpackage -us -uc -b -d

rpm: APT_TEST = $(APT_RPM)
rpm: $(if $(ON_APT),apt-test) ## build the RPM, build/rpm/RPMS/*/*.rpm (needs rpmbuild, gcc, python3)
	rm -rf $(BUILD)/rpm
	mkdir -p $(BUILD)/rpm/SOURCES/nfslock-$(VERSION)
	tar -c --exclude=__pycache__ $(PACKED) | tar -x -C $(BUILD)/rpm/SOURCES/nfslock-$(VERSION)
	tar -C $(BUILD)/rpm/SOURCES -czf $(BUILD)/rpm/SOURCES/nfslock-$(VERSION).tar.gz \
	  nfslock-$(VERSION)
	rpmbuild -bb $(if $(ON_APT),--nodeps) --define "_topdir $(abspath $(BUILD)/rpm)" \
	  packaging/rpm/nfslock.spec

clean: ## remove what the other targets made
	rm -rf .venv .cache build
	find . -name __pycache__ -prune -exec rm -rf {} +

# A bare machine has no package lists; a full one is not asked to fetch them again.
apt-test:
	@dpkg-query -W $(APT_TEST) >/dev/null 2>&1 && \
	  ! dpkg-query -W -f '$${Status}\n' $(APT_TEST) | grep -qv 'ok installed' || { \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get -y -qq \
	  -o DPkg::Lock::Timeout=300 --no-install-recommends install $(APT_TEST) >/dev/null; }

.venv/ok: Makefile
	$(PYTHON) -m venv .venv
	$(VENV)/pip -q --disable-pip-version-check install $(PY_TEST)
	touch $@

.venv/bench-ok: .venv/ok
	$(VENV)/pip -q --disable-pip-version-check install matplotlib
	touch $@

.PHONY: help demo check lint unit host bench crash fuzz callout metadata install clean apt-test \
	deb rpm images cluster cluster-quick cluster-full demo-cluster proof
