# Every target is a plain command that also works without make.

.PHONY: services-up services-down

# Kafka, a source and a target on this host's loopback: KAFKA_PORT, SOURCE_PORT, TARGET_PORT.
services-up:
	cargo run -q -p oplog-relay-tests --bin services -- up

# Stops them; data and logs stay in .cache/services.
services-down:
	cargo run -q -p oplog-relay-tests --bin services -- down
