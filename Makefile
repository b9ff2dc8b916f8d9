# make demo: a real cluster walks from two hosts to two others, with traffic running.
# make test: everything that is checked before a change lands.
# make fuzz EXECUTIONS=10000000: the parsers of bytes from the wire, against anything.

CARGO ?= cargo
EXECUTIONS ?= 1000000
TRANSHUME := target/debug/transhume

.PHONY: setup build demo test check unit lab-test licences fuzz

setup:
	scripts/setup.sh

build: setup
	$(CARGO) build --locked -p transhume

demo: build
	scripts/demo.sh $(TRANSHUME)

# One selection of packages, so that every dependency is built once; one test at a time, because there is one machine to be a data
# centre. The binary's own tests come first by name; its labs unpack the kernel that QEMU's tests boot.
test: setup check
	CARGO='$(CARGO)' scripts/test.sh

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	scripts/licences.sh
	scripts/docs.py

# Pure parts, parsers, codecs, planner, the simulation: no root, no network.
unit:
	$(CARGO) test --locked --workspace --exclude transhume-lab --exclude transhume-qemu --exclude transhume-netbuf --exclude transhume

# Real kernel, real QEMU, whole labs: one after the other. The lab comes before QEMU's own tests: it unpacks the guests' kernel.
lab-test:
	$(CARGO) test --locked -p transhume-netbuf -- --test-threads=1
	$(CARGO) test --locked -p transhume-lab -- --test-threads=1
	$(CARGO) test --locked -p transhume-qemu -- --test-threads=1
	$(CARGO) test --locked -p transhume -- --test-threads=1

# Needs cargo-fuzz and says so; the compiler is the usual one.
fuzz:
	scripts/fuzz.sh $(EXECUTIONS)
