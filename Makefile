# Every target is a plain command that also works without make.

UNIT_TESTS = --test key_vectors --test json_round_trip --test diff_histories --test protocol
# The tiers of tests/README.md, the quick ones first, so that a fault shows early.
E2E_TESTS = --test instructions --test in_memory --test fake_servers --test real_kafka --test end_to_end

# Building OpenSSL takes a third of a cold build. The tests and the demo use the machine's OpenSSL if its
# headers are installed; make bench builds OpenSSL, as a release does.
ifeq ($(shell pkg-config --atleast-version=3.0 openssl 2>/dev/null && echo found),found)
demo test test-quick lint unit e2e programs interop instructions services-up services-down: export OPENSSL_NO_VENDOR = 1
endif

.PHONY: help demo test test-quick lint unit e2e interop programs bench pieces instructions deny services-up services-down

help:
	@echo "make demo           the main use case on real servers, shown step by step; a minute after the build"
	@echo "make test           everything that CI runs"
	@echo "make test-quick     lint, unit tests and the in-memory tests; no servers"
	@echo "make lint           formatting, clippy, documentation, no import cycles between folders"
	@echo "make unit           unit and property tests, no servers"
	@echo "make e2e            all other tests; they install and start Kafka and FerretDB themselves"
	@echo "make interop        only the tests in which other programs read the topics; part of make test"
	@echo "make bench          speed relative to the plain client libraries, latency, memory, and how each grows"
	@echo "make pieces         times of the single steps of the work per entry"
	@echo "make instructions   writes the table of instruction counts that make test compares with; needs valgrind"
	@echo "make deny           licenses and origins of dependencies; needs cargo-deny"
	@echo "make services-up    Kafka, a source, a target and a schema registry on this host; make services-down stops them"

# The profile "demo" is quick to build; make bench measures the release profile. The servers are
# downloaded while cargo compiles.
demo:
	tests/kit/services/download.sh & \
	cargo build --profile demo --locked -p oplog-producer -p oplog-consumer -p oplog-relay-demo --bins; \
	built=$$?; wait; exit $$built
	target/demo/demo

test: lint unit e2e

# The targets from here to e2e select the same packages, features and profile: cargo would compile the
# dependencies again for a different selection.
test-quick: lint unit
	cargo test --locked --workspace --test in_memory

lint:
	cargo fmt --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps
	cargo run -q --locked -p oplog-relay-structure

unit:
	cargo test --locked --workspace --lib --bins $(UNIT_TESTS)

# A test is built with the programs, because its development dependencies also select features. Without
# it, cargo would compile the dependencies with other features than for the tests.
programs:
	cargo build --locked --workspace --bins --test end_to_end

# Servers and programs are processes of their own, which mostly wait for each other: four tests at a time
# keep two cores busy.
e2e: programs
	cargo test --locked --workspace $(E2E_TESTS) -- --test-threads=4

# Reads the topics with Kafka Connect and MongoDB's sink connector, Debezium's transform, Kafka's
# command-line tools, a schema registry and its deserializer for Java, and the examples in Python and Java.
interop: programs
	cargo test --locked --workspace --test real_kafka -- --test-threads=3 \
		foreign_readers kafka_tools avro examples

bench:
	cargo build --release --locked -p oplog-producer -p oplog-consumer -p oplog-relay-bench -p oplog-relay-kit --bins
	target/release/bench

pieces:
	cargo bench --locked -p oplog-relay-bench --bench pieces

instructions:
	OPLOG_RELAY_REFRESH_INSTRUCTIONS=1 cargo test --locked --workspace --test instructions

deny:
	cargo deny check bans licenses sources

# Kafka, a source, a target and a schema registry on this host's loopback: KAFKA_PORT, SOURCE_PORT,
# TARGET_PORT, REGISTRY_PORT.
services-up:
	cargo run -q --locked -p oplog-relay-kit --bin services -- up

# Stops them; data and logs stay in .cache/services.
services-down:
	cargo run -q --locked -p oplog-relay-kit --bin services -- down
