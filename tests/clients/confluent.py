#!/usr/bin/env python3
"""librdkafka through confluent-kafka: confluent.py SCENARIO BOOTSTRAP TOPIC. Exits 0 when every fact holds."""
import sys
import time

from confluent_kafka import (OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer,
                             TopicPartition)
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

scenario, servers, topic = sys.argv[1:4]
base = {"bootstrap.servers": servers}


def consumer(**more):
    return Consumer({**base, "group.id": topic + "-group", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False, "session.timeout.ms": 6000, **more})


def create(name, partitions=1, **config):
    a = AdminClient(base)  # the answer is lost when its client is collected
    a.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(15)


def produce(name, values, partition=0, **config):
    failures, p = [], Producer({**base, "acks": "all", **config})
    for v in values:
        p.produce(name, v, partition=partition, on_delivery=lambda e, m: e and failures.append(e))
        p.poll(0)
    assert p.flush(60) == 0, "not everything was acknowledged"
    return failures


def read(c, count, seconds=20):
    got, end = [], time.time() + seconds
    while len(got) < count and time.time() < end:
        m = c.poll(0.2)
        if m is not None:
            assert not m.error(), m.error()
            got.append(m)
    assert len(got) == count, f"{len(got)} of {count} records"
    return got


def until(what, fact, consumers, seconds=30):
    end = time.time() + seconds
    while time.time() < end:
        for c in consumers:
            c.poll(0.05)
        if fact():
            return
    raise AssertionError("waited in vain: " + what)


def parts(c):
    return sorted(p.partition for p in c.assignment())


def roundtrip():
    now = int(time.time() * 1000)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        name = f"{topic}-{codec}"
        create(name)
        p = Producer({**base, "compression.type": codec, "linger.ms": 50})
        for i in range(500):
            p.produce(name, b"value %d " % i * 20, key=b"k%d" % (i % 7), timestamp=now + i,
                      headers=[("n", b"%d" % i), ("empty", b""), ("null", None), ("n", b"again")])
        assert p.flush(30) == 0
        c = consumer()
        c.assign([TopicPartition(name, 0, OFFSET_BEGINNING)])
        for i, m in enumerate(read(c, 500)):
            assert m.offset() == i and m.key() == b"k%d" % (i % 7) and m.value() == b"value %d " % i * 20
            assert m.timestamp()[1] == now + i, (m.timestamp(), now + i)
            assert m.headers() == [("n", b"%d" % i), ("empty", b""), ("null", None), ("n", b"again")]
        c.close()


def sizes():
    create(topic, 1, **{"max.message.bytes": "200000"})
    values = [b"", None, b"x", b"y" * 150_000, b"z" * 199_000]
    assert produce(topic, values, **{"batch.num.messages": 1}) == []
    c = consumer()
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    assert [m.value() for m in read(c, 5)] == values
    errors = produce(topic, [b"w" * 300_000])
    assert [e.code() for e in errors] == [KafkaError.MSG_SIZE_TOO_LARGE], errors
    c.close()


def group():
    create(topic, 4)
    for strategy in ("range", "cooperative-sticky"):
        gid = f"{topic}-{strategy}"
        for p in range(4):
            assert produce(topic, [b"%d" % i for i in range(50)], p) == []
        make = lambda: consumer(**{"group.id": gid, "partition.assignment.strategy": strategy})
        a, b = make(), make()
        a.subscribe([topic])
        b.subscribe([topic])
        until("two members share four partitions", lambda: len(parts(a)) == 2 and len(parts(b)) == 2, [a, b])
        assert sorted(parts(a) + parts(b)) == [0, 1, 2, 3]
        b.close()
        until("the one that is left has all", lambda: parts(a) == [0, 1, 2, 3], [a])
        for p in range(4):
            a.seek(TopicPartition(topic, p, 0))
        seen = read(a, 50)
        a.commit(message=seen[-1], asynchronous=False)
        done = seen[-1]
        a.close()
        c = make()
        committed = c.committed([TopicPartition(topic, done.partition())], 10)[0].offset
        assert committed == done.offset() + 1, (committed, done.offset())
        c.subscribe([topic])
        until("it is assigned again", lambda: parts(c) == [0, 1, 2, 3], [c])
        c.close()


def resume():
    create(topic, 1)
    assert produce(topic, [b"%d" % i for i in range(100)]) == []
    first = consumer()
    first.subscribe([topic])
    got = read(first, 60)
    first.commit(message=got[59], asynchronous=False)
    first.close()
    second = consumer()
    second.subscribe([topic])
    assert [m.offset() for m in read(second, 40)] == list(range(60, 100))
    second.close()


def static_members():
    create(topic, 2)
    make = lambda n: consumer(**{"group.instance.id": n, "session.timeout.ms": 10000})
    a, b = make("a"), make("b")
    a.subscribe([topic])
    b.subscribe([topic])
    until("one partition each", lambda: len(parts(a)) == 1 and len(parts(b)) == 1, [a, b])
    before = parts(a)
    kept = parts(b)
    b.close()  # a static member does not leave
    b = make("b")
    b.subscribe([topic])
    until("it has its partition back", lambda: parts(b) == kept, [a, b])
    assert parts(a) == before
    twin = make("b")
    twin.subscribe([topic])
    fenced = []

    def is_fenced():
        try:
            m = b.poll(0.05)
            if m is not None and m.error():
                fenced.append(m.error().code())
        except KafkaException as e:
            fenced.append(e.args[0].code())
        return KafkaError.FENCED_INSTANCE_ID in fenced or KafkaError._FATAL in fenced

    until("the first of two with one instance id is fenced", is_fenced, [a, twin])
    for c in (a, twin):
        c.close()


def timestamps():
    create(topic)
    p, now = Producer({**base, "linger.ms": 100}), 1_700_000_000_000
    for i in range(1000):
        p.produce(topic, b"%d" % i, partition=0, timestamp=now + i * 10)
    assert p.flush(30) == 0
    c = consumer()
    ask = lambda t: c.offsets_for_times([TopicPartition(topic, 0, t)], 10)[0].offset
    assert ask(now - 5) == 0 and ask(now) == 0
    for i in (1, 499, 500, 998, 999):
        assert ask(now + i * 10) == i, (i, ask(now + i * 10))
        assert ask(now + i * 10 - 3) == i
    assert ask(now + 10_001) in (-1, 1000)
    assert c.get_watermark_offsets(TopicPartition(topic, 0), 10) == (0, 1000)
    c.close()


def mid_batch():
    for codec in ("none", "lz4"):
        name = f"{topic}-{codec}"
        create(name)
        assert produce(name, [b"%d" % i for i in range(1000)],
                       **{"linger.ms": 200, "compression.type": codec}) == []
        for start in (0, 1, 333, 999):
            c = consumer()
            c.assign([TopicPartition(name, 0, start)])
            first = read(c, 1)[0]
            assert first.offset() == start and first.value() == b"%d" % start
            c.close()


def idempotent():
    """The caller cuts connections meanwhile: each record must be there once and in order."""
    p = Producer({**base, "enable.idempotence": True, "linger.ms": 2, "retry.backoff.ms": 50,
                  "socket.timeout.ms": 5000, "reconnect.backoff.max.ms": 500, "batch.size": 4000})
    failures = []
    for i in range(20_000):
        while True:
            try:
                p.produce(topic, b"%d" % i, partition=0,
                          on_delivery=lambda e, m: e and failures.append(e))
                break
            except BufferError:
                p.poll(0.1)
        p.poll(0)
        if i % 100 == 0:
            time.sleep(0.02)
    assert p.flush(60) == 0 and failures == [], failures[:3]
    c = consumer()
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    assert [int(m.value()) for m in read(c, 20_000, 60)] == list(range(20_000))
    assert c.poll(1.0) is None
    c.close()


def admin():
    a = AdminClient(base)
    create(topic, 3, **{"retention.ms": "3600000"})
    try:
        create(topic)
        raise SystemExit("a topic was created twice")
    except KafkaException as e:
        assert e.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
    resource = ConfigResource(ResourceType.TOPIC, topic)
    configs = a.describe_configs([resource])[resource].result(10)
    assert configs["retention.ms"].value == "3600000" and not configs["retention.ms"].is_default
    assert configs["cleanup.policy"].value == "delete" and configs["cleanup.policy"].is_default
    a.create_partitions([NewPartitions(topic, 5)])[topic].result(10)
    until("five partitions", lambda: len(a.list_topics(topic, 10).topics[topic].partitions) == 5, [])
    assert produce(topic, [b"x"] * 10, 4) == []
    gone = a.delete_records([TopicPartition(topic, 4, 7)])
    assert [f.result(10).low_watermark for f in gone.values()] == [7]
    c = consumer()
    assert c.get_watermark_offsets(TopicPartition(topic, 4), 10) == (7, 10)
    c.commit(offsets=[TopicPartition(topic, 4, 9)], asynchronous=False)
    c.close()
    gid = topic + "-group"
    listed = [g.group_id for g in a.list_consumer_groups().result(10).valid]
    assert gid in listed, listed
    a.delete_consumer_groups([gid])[gid].result(10)
    until("the group is gone", lambda: gid not in [
        g.group_id for g in a.list_consumer_groups().result(10).valid], [])
    a.delete_topics([topic])[topic].result(10)
    until("the topic is gone", lambda: topic not in a.list_topics(timeout=10).topics, [])


globals()[scenario]()
print(scenario, "ok")
