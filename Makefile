# Every target is a plain command that also works without make.

UNIT_TESTS = --test key_vectors --test json_round_trip --test diff_histories --test protocol

# Every test binary of the tests package: a new one is never forgotten.
E2E_TESTS = $(shell awk '/^\[\[test\]\]/ { getline; gsub(/"/, "", $$3); print "--test " $$3 }' tests/Cargo.toml)

.PHONY: help demo test lint unit e2e bench pieces instructions deny services-up services-down

help:
	@echo "make demo           the whole road on real servers, visibly; under two minutes after the build"
	@echo "make test           everything that CI runs"
	@echo "make lint           formatting, clippy, documentation, no import circles between folders"
	@echo "make unit           unit and property tests, no servers"
	@echo "make e2e            tests on real Kafka and FerretDB, which they install and start themselves"
	@echo "make bench          speed against what the plain clients can do, latency, memory, and how they grow"
	@echo "make pieces         times of the work that every entry costs, piece by piece"
	@echo "make instructions   writes the table of instruction counts that make test compares with; needs valgrind"
	@echo "make deny           licenses and origins of dependencies; needs cargo-deny"
	@echo "make services-up    Kafka, a source and a target on this host; make services-down stops them"

# Two cores build the release programs in a few minutes; then the demo itself begins.
demo:
	cargo build --release --locked -p oplog-producer -p oplog-consumer -p oplog-relay-tests --bins
	target/release/demo

test: lint unit e2e

lint:
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	cargo run -q --locked -p oplog-relay-structure

# All of these select the whole workspace: cargo chooses the features of a dependency by the selected
# packages, and would compile it again for another selection.
unit:
	cargo test --locked --workspace --lib --bins $(UNIT_TESTS)

# Servers and programs are processes of their own: two tests at a time keep two cores busy.
# Development dependencies count for features too, so the programs are built beside a test.
e2e:
	cargo build --locked --workspace --bins --test end_to_end
	cargo test --locked --workspace $(E2E_TESTS) -- --test-threads=2

bench:
	cargo build --release --locked -p oplog-producer -p oplog-consumer -p oplog-relay-tests --bins
	target/release/bench

pieces:
	cargo bench --locked -p oplog-relay-tests --bench pieces

instructions:
	OPLOG_RELAY_REFRESH_INSTRUCTIONS=1 cargo test --locked -p oplog-relay-tests --test instructions

deny:
	cargo deny check bans licenses sources

# Kafka, a source and a target on this host's loopback: KAFKA_PORT, SOURCE_PORT, TARGET_PORT.
services-up:
	cargo run -q -p oplog-relay-tests --bin services -- up

# Stops them; data and logs stay in .cache/services.
services-down:
	cargo run -q -p oplog-relay-tests --bin services -- down
