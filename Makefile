# What people run. `make help` lists it.

PROTOC ?= $(shell command -v protoc 2>/dev/null)
CARGO  ?= cargo
# Tests drive a binary in which rules can be broken on purpose; shipped builds cannot.
FAULTS := --features cellway/test-faults
# The programs that tests drive; for a test that is named, cargo builds none of them.
DRIVEN := $(CARGO) build -q --workspace $(FAULTS) --bins

.PHONY: help dev setup setup-tests build test lint unit battery battery-peers contract cluster e2e soak soak-https soak-etcd soak-long soak-faults many faults store-gone storm stress simulate model fuzz measure postgres-move bench profile flame instructions scale install clean-dev

help:
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: setup ## set up what is missing, build, run the whole system on this machine
	$(CARGO) run -q -p cellway -- dev $(ARGS)

setup: ## what is needed to build
	@scripts/setup protoc

setup-tests: setup ## what is needed to run every test
	@scripts/setup etcd curl postgres strace nftables faketime iproute2

build: setup ## build the binary, optimised
	$(CARGO) build --release -p cellway

measure: setup ## what an access log's record costs the thread that serves (a figure, not a test)
	$(CARGO) test --release -p cellway-router what_a_record_costs -- --ignored --nocapture

postgres-move: setup ## moves of 1 GB between two PostgreSQL servers (figures)
	@scripts/postgres-move

bench: setup ## the router beside nginx, HAProxy and a relay: CPU per request; writes target/bench.json (ARGS="h1 --rounds 9")
	@scripts/bench $(ARGS)

profile: setup ## see what the router and the gate do under load, for the builds that are installed and measured; writes cli/seen.profdata
	@scripts/profile

flame: setup ## where the router spends its time, as bench/flame.svg (ARGS="h1 file.svg")
	@scripts/flame $(ARGS)

instructions: setup ## how many instructions a request takes, by function (ARGS="conn", ARGS="two_hop agent")
	@scripts/instructions $(ARGS)

install: setup ## install the binary into cargo's bin directory
	@scripts/dist install

test: setup-tests ## everything
	@scripts/test all

lint: setup ## formatting, lints, house rules
	@scripts/test lint

unit: setup-tests ## unit and property tests
	@scripts/test unit

battery: setup ## raw bytes at the router: framing, heads, hosts, hostile answers
	@scripts/test battery

battery-peers: setup ## the same HTTP/1.1 bytes at nginx and HAProxy, counts side by side
	@scripts/battery-peers

SEEDS ?= 10000
NETWORK_SEEDS ?= 100
simulate: setup ## the move's rules under SEEDS random histories for each promise, the real loops under NETWORK_SEEDS
	SEEDS=$(SEEDS) $(CARGO) test --release -p cellway-simulation --test promises
	SEEDS=$(NETWORK_SEEDS) $(CARGO) test --release -p cellway-simulated-network --test promises -- --nocapture

contract: setup-tests ## the store contract, on every store
	@scripts/test contract

cluster: setup ## real loops in one process
	@scripts/test cluster

e2e: setup-tests ## real processes, real etcd
	@scripts/test e2e

soak: setup-tests ## traffic and moves on a fresh `dev`, every promise checked
	@scripts/soak dev $(ARGS)

soak-https: setup-tests ## the same over HTTPS and HTTP/2, with mutual TLS on every hop inside
	@scripts/soak https $(ARGS)

soak-etcd: setup-tests ## the same with every role its own process, on a real etcd
	@scripts/soak etcd $(ARGS)

faults: setup-tests ## everything broken that the tests can break, each recovery with its bound (docs/operate/faults.md)
	@scripts/faults

soak-long: setup-tests ## hours of it, with random kills, in rounds; run again to go on (ARGS="--minutes 30")
	$(CARGO) build --release -q -p cellway -p cellway-end-to-end --bins
	target/release/cellway-soak-long $(ARGS)

soak-faults: setup-tests ## the same with everything broken at random that can be, in rounds (ARGS="--minutes 30 --seed 7")
	$(CARGO) build --release -q -p cellway -p cellway-end-to-end --bins
	target/release/cellway-soak-long --faults all --rps 300 --requests 1000000 --file target/soak-faults.jsonl $(ARGS)

MOVES ?= 1000
many: setup-tests ## MOVES tenants leave a cell by one command, on etcd, while the control plane is killed twice
	$(DRIVEN)
	MOVES=$(MOVES) $(CARGO) test --workspace $(FAULTS) --test end-to-end one_command_moves -- --nocapture

store-gone: setup-tests ## etcd is gone while REQUESTS are made (30,000: a minute); none may fail
	$(DRIVEN)
	REQUESTS=$(or $(REQUESTS),30000) $(CARGO) test --workspace $(FAULTS) --test end-to-end store_is_gone -- --nocapture

storm: setup-tests ## 1,000 placements change a second, for STORM_S seconds (60): figures and bounds
	$(DRIVEN)
	STORM_S=$(or $(STORM_S),60) $(CARGO) test --workspace $(FAULTS) --test end-to-end a_storm_of_placements -- --nocapture

TENANTS ?= 1000000
scale: setup-tests ## a router with TENANTS tenants: starts from etcd, its snapshot and a file, changes at 5,000/s; figures and bounds
	$(DRIVEN) --release
	@TENANTS=$(TENANTS) $(CARGO) test --release --workspace $(FAULTS) --test end-to-end scale:: -- --nocapture --test-threads 1

stress: setup ## floods, slow crowds, stalled and hostile cells against one router; figures and bounds (20 minutes)
	@scripts/stress $(ARGS)

model: setup ## every reachable state of small worlds: the matrix of the model checker, state counts and bounds (minutes)
	$(CARGO) run -q -p cellway-model -- $(ARGS)

fuzz: ## fuzz every parser, FUZZ_SECONDS each (600); `make unit` replays the seeds with mutations
	@scripts/fuzz $(TARGETS)
