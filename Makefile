# make demo:  a real cluster walks from two hosts to two others, with traffic running.
# make quick: what is worth running before every commit; no root, no QEMU.
# make test:  everything that is checked before a change lands.
# make deep:  the packaged units on hosts with a distribution's kernel, systemd and KVM, all emulated.
# make bench: one table of what is promised, beside the last release's; an hour on a machine with nothing else to do.
# make soak:  what takes hours. CONTRIBUTING.md tells the tiers and their times.

CARGO ?= cargo
EXECUTIONS ?= 1000000
TRANSHUME := target/debug/transhume
# The version that is installed where there is none.
NEXTEST := 0.9.143
# Every tier builds all packages with the same features, so that each dependency is built once.
TESTS := $(CARGO) nextest run --locked --workspace

# Tiers share one machine; within a tier nextest decides what runs side by side.
.NOTPARALLEL:
.PHONY: setup nextest build demo image check deny tiers doc-tests quick-tests quick net qemu lab test soak fuzz bench deep

setup:
	scripts/setup.sh

nextest:
	@$(CARGO) nextest --version > /dev/null 2>&1 || $(CARGO) install --locked cargo-nextest --version $(NEXTEST)

build: setup
	$(CARGO) build --locked -p transhume

demo: build
	scripts/demo.sh $(TRANSHUME)

# The guests' kernel, fetched once and kept, and an initramfs for it.
image:
	$(CARGO) build --locked --workspace --examples
	target/debug/examples/image

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	scripts/licences.sh
	scripts/docs.py
	scripts/comments.py --check

# Needs cargo-deny and says so: building it takes longer than all of `make quick`.
deny:
	scripts/deny.sh

# Each test has exactly one tier.
tiers: nextest
	CARGO='$(CARGO)' scripts/tiers.py

quick-tests: nextest
	$(TESTS)

# nextest runs no doc tests; those that must not compile are among them.
doc-tests:
	$(CARGO) test --quiet --locked --workspace --doc

quick: check tiers quick-tests doc-tests

net: nextest
	$(TESTS) --profile net

qemu: nextest image
	$(TESTS) --profile qemu

lab: nextest image
	$(TESTS) --profile lab

test: setup quick net qemu lab

# Tests that are ignored for their length, then the fuzz targets.
soak: nextest image
	before=$$(scripts/before.sh) && TRANSHUME_BEFORE=$$before $(TESTS) --cargo-profile release --profile soak --run-ignored only --no-tests pass
	scripts/fuzz.sh $(EXECUTIONS)

# Two hosts as virtual machines; 8 GiB of memory, nine minutes and a release build. As root.
deep: image
	$(CARGO) build --locked --release -p transhume
	scripts/deep/run.sh net
	DEEP_SUITE=trixie-backports scripts/deep/run.sh tls
	scripts/deep/run.sh units

# Raw CSV and the table's stay in target/bench; what is there is not measured again. As root.
bench: image
	$(CARGO) build --locked --release -p transhume
	$(CARGO) build --locked --release -p transhume-netbuf --example buffer_rate
	$(CARGO) build --locked --release -p transhume-planner --example table
	scripts/bench.py

# The parsers of what others send or keep, against anything, under libFuzzer; the compiler is the usual
# one. `make quick` has tried each of them briefly. `make fuzz EXECUTIONS=10000000`.
fuzz:
	scripts/fuzz.sh $(EXECUTIONS)
