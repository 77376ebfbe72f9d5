#!/usr/bin/env python3
"""Clients of a site that keep ledgers: site.py SCENARIO BOOTSTRAP TOPIC ARG... Each line of output is
an event, told at once. Whoever goes on does so until its input is closed."""
import os
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

scenario, servers, topic = sys.argv[1:4]
more = sys.argv[4:]
# A gateway that is cut off shall be given up long before a test loses its patience.
base = {"bootstrap.servers": servers, "socket.timeout.ms": 5000, "socket.connection.setup.timeout.ms": 3000,
        "reconnect.backoff.max.ms": 1000, "topic.metadata.refresh.interval.ms": 5000}
ended = threading.Event()


def say(*words):
    os.write(1, (" ".join(str(w) for w in words) + "\n").encode())


def await_end():
    sys.stdin.read()
    ended.set()


def create():
    """PARTITIONS REPLICATION_FACTOR NAME=VALUE..."""
    config = dict(c.split("=") for c in more[2:])
    a = AdminClient(base)
    try:
        a.create_topics([NewTopic(topic, int(more[0]), int(more[1]), config=config)])[topic].result(30)
        say("created")
    except KafkaException as e:
        say("refused", e.args[0].name())


def produce():
    """NAME PARTITIONS PER_SECOND NAME=VALUE...: numbers for each partition, from 0 up."""
    name, partitions, rate = more[0], int(more[1]), int(more[2])
    p = Producer({**base, "acks": "all", "linger.ms": 5, "message.timeout.ms": 120000, "request.timeout.ms": 5000,
                  **dict(c.split("=") for c in more[3:])})

    def done(partition, number):
        def report(e, m):
            say(*(("failed", partition, number, e.name()) if e else ("acked", partition, m.offset(), number)))
        return report

    number = 0
    begin = time.time()
    while not ended.is_set():
        if number - (time.time() - begin) * rate > 0:
            p.poll(0.01)
            continue
        for partition in range(partitions):
            while True:
                try:
                    p.produce(topic, f"{name}:{number}", partition=partition, on_delivery=done(partition, number))
                    break
                except BufferError:
                    p.poll(0.1)
        number += 1
        p.poll(0)
    left = p.flush(120)
    say("end", left)


def consume():
    """GROUP: commits after each handful of records, and says what it has got, committed and begun at."""
    c = Consumer({**base, "group.id": more[0], "auto.offset.reset": "earliest", "enable.auto.commit": False,
                  "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000,
                  "partition.assignment.strategy": "range"})
    got = 0

    def commit():
        try:
            for t in c.commit(asynchronous=False):
                if t.error is None and t.offset >= 0:
                    say("committed", time.monotonic_ns(), t.partition, t.offset)
        except KafkaException as e:
            say("not-committed", e.args[0].name())

    def assigned(c, parts):
        begin = time.monotonic_ns()
        try:
            for t in c.committed(parts, 30):
                if t.error is None and t.offset >= 0:
                    say("resumed", begin, t.partition, t.offset)
        except KafkaException as e:
            say("not-resumed", e.args[0].name())

    c.subscribe([topic], on_assign=assigned)
    while not ended.is_set():
        m = c.poll(0.2)
        if m is None:
            continue
        if m.error():
            say("error", m.error().name())
            continue
        say("got", m.partition(), m.offset(), m.value().decode())
        got += 1
        if got % 20 == 0:
            commit()
    commit()
    c.close()
    say("end", 0)


def read():
    """NAME=VALUE...: everything that is committed: partition, offset, value."""
    c = Consumer({**base, "group.id": "reader", "enable.auto.commit": False, "enable.partition.eof": True,
                  "auto.offset.reset": "error", **dict(c.split("=") for c in more)})
    partitions = c.list_topics(topic, 30).topics[topic].partitions
    c.assign([TopicPartition(topic, p, 0) for p in partitions])
    left, end = set(partitions), time.time() + 90
    while left:
        assert time.time() < end, f"partitions {left} do not end"
        m = c.poll(1)
        if m is None:
            continue
        if m.error():
            if m.error().name() == "_PARTITION_EOF":
                left.discard(m.partition())
            else:
                say("error", m.error().name())
            continue
        say("got", m.partition(), m.offset(), m.value().decode())
    c.close()
    say("end", 0)


threading.Thread(target=await_end, daemon=True).start()
{"create": create, "produce": produce, "consume": consume, "read": read}[scenario]()
