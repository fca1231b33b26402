"""Prints the change events of a topic prefix (oplog-producer run --format json), one per line.

Arguments: brokers, topic prefix, group. With a fourth argument, "once", it stops when it has read
everything that the topics held at the start. Needs only confluent-kafka:

    pip install confluent-kafka
    python3 json_topic_reader.py localhost:9092 cdc printer once
"""

import re
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException


def read(brokers, prefix, group, once):
    consumer = Consumer({
        "bootstrap.servers": brokers,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        # This client's default is the same. The Java client's is read_uncommitted, which also
        # returns records of aborted transactions.
        "isolation.level": "read_committed",
        # Reports the end of each partition, for "once".
        "enable.partition.eof": once,
    })
    # Data topics are named <prefix>.<database>.<collection>. A pattern begins with ^.
    consumer.subscribe([rf"^{re.escape(prefix)}\.[^.]+\.[^.]+$"])
    at_end = set()
    try:
        while not (once and at_end and len(at_end) == len(consumer.assignment())):
            for message in consumer.consume(num_messages=500, timeout=0.2):
                if message.error() is None:
                    # The key is the document's _id: all changes of a document are in one partition,
                    # in order. Events with the operationType "noop" change nothing: they are barriers
                    # for oplog-consumer replay, and a program that acts on events skips them.
                    print(message.value().decode())
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    at_end.add((message.topic(), message.partition()))
                else:
                    raise KafkaException(message.error())
            # The events were processed before this commit, so a crash repeats events but loses none.
            # The fields source, ts and ord of a change event's _id identify it.
            commit(consumer)
    finally:
        consumer.close()


def commit(consumer):
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as failure:
        # Nothing was read since the last commit.
        if failure.args[0].code() != KafkaError._NO_OFFSET:
            raise


if __name__ == "__main__":
    read(sys.argv[1], sys.argv[2], sys.argv[3], once=sys.argv[4:] == ["once"])
