# `make demo` is the place to begin. Everything here calls cargo or a script; see the comments at the top of each.

PAIRS ?= 5
TAP_PAIRS ?= 9
AF_XDP_PAIRS ?= 5
RING_PAIRS ?= 9

SECONDS ?= 60
MINUTES ?= 60
SEED ?=

.PHONY: all demo test docs deb rpm bench-guest bench-pairs bench-tap bench-af-xdp bench-ring bench-loadgen bench-modes \
	bench-modes-guest bench-kicks bench-devices check clean miri fuzz soak

all:
	cargo build --release -p vnicd

# A guest boots on vnicd, traffic goes both ways, everything is taken down again.
demo:
	@scripts/demo

# All tests; the last line is "N passed, N failed".
test:
	@scripts/test

# What is made from the code in docs/: the configuration reference.
docs:
	@scripts/docs

# Packages of the release build, in target/package. See docs/install.md.
deb rpm:
	@scripts/package $@

# vnicd and QEMU's own TAP in turn in the same guest, offloads on and off: table, JSON and plot in target/bench-guest.
# Takes 8 minutes; scripts/bench guest --help has smaller choices.
bench-guest:
	@scripts/bench guest --pairs $(PAIRS)

# Four queue pairs and one in turn, four streams each.
bench-pairs:
	@scripts/bench pairs --pairs $(PAIRS)

# The TAP uplink without a VM, beside testpmd's net_vhost and net_tap: packets joined on their way to the TAP, and frames
# from it that are cut. Takes 15 minutes; scripts/bench tap --help has smaller choices. Two free CPUs and 512 huge pages
# make it worth more.
bench-tap:
	@scripts/bench tap --pairs $(TAP_PAIRS)

# AF_XDP on a veth pair: packets both ways without a VM beside testpmd's net_vhost and net_af_xdp, and a guest's TCP beside
# the TAP. Takes 6 minutes; scripts/bench af-xdp --help has smaller choices. Two free CPUs and 512 huge pages make it worth
# more.
bench-af-xdp:
	@scripts/bench af-xdp --pairs $(AF_XDP_PAIRS)

# The rings alone beside DPDK's vhost PMD, one core each: packets and cycles a packet by way, ring, size and number of
# queues, and what a packet costs by the size of things. Takes 40 minutes. Two free CPUs and 512 huge pages make it worth
# more; scripts/bench ring --help has smaller choices.
bench-ring:
	@scripts/bench ring --pairs $(RING_PAIRS)

# The daemon's test uplinks under a load generator: latency by rate, in target/bench-loadgen. Takes 1 minute.
bench-loadgen:
	@scripts/bench loadgen

# The modes interrupt, polling and auto and testpmd's vhost PMD in loopback by load: latency, CPU time, kicks and calls,
# and whether auto shows what it must. Takes 12 minutes; scripts/bench modes --help has smaller choices.
bench-modes:
	@scripts/bench modes

# Rate and memory of a daemon by the number of its busy devices, 1 to 256: table, JSON and plot in target/bench-devices.
# Takes 6 minutes.
bench-devices:
	@scripts/bench devices

# The modes in a guest whose processor shares its core with the worker: TCP both ways. Takes 5 minutes.
bench-modes-guest:
	@scripts/bench modes-guest

# A device beside one whose driver kicks without end, and beside one that is as busy and does not. Takes 1 minute.
bench-kicks:
	@scripts/bench kicks

# Guests and virtio-user clients with traffic that is checked, on daemons that are killed, while guests migrate, front ends
# come back, and memory, queues and modes change: for so many minutes, then a report. SEED=N repeats a run's events.
soak:
	@scripts/soak $(MINUTES) $(SEED)

# Every fuzz target for so many seconds: hostile rings, hostile messages. See backend/fuzz/README.md.
fuzz:
	@scripts/fuzz all $(SECONDS)

# The tests of guest memory and rings under Miri, which looks at every access. Takes some minutes.
miri:
	@scripts/miri

# What is checked before a change is taken: format, lints, documentation, tests.
check:
	@.ci/run

clean:
	cargo clean
