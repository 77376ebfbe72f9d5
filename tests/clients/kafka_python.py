#!/usr/bin/env python3
"""kafka-python and aiokafka: kafka_python.py SCENARIO BOOTSTRAP TOPIC. Exits 0 when every fact holds.
Scenario `site NAME PARTITIONS PER_SECOND` is a producer with a ledger, as in site.py."""
import asyncio
import os
import sys
import threading
import time

scenario, servers, topic = sys.argv[1:4]
N = 300


def roundtrip():
    import kafka
    for codec in (None, "gzip", "lz4", "snappy", "zstd"):
        p = kafka.KafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=20, compression_type=codec)
        for i in range(N):
            p.send(topic, b"%d" % i, key=b"k", headers=[("h", b"%d" % i)], partition=0)
        p.flush(20)
        p.close()
        end = None
        c = kafka.KafkaConsumer(bootstrap_servers=servers, consumer_timeout_ms=8000)
        tp = kafka.TopicPartition(topic, 0)
        c.assign([tp])
        end = c.end_offsets([tp])[tp]
        c.seek(tp, end - N)
        got = []
        for m in c:
            got.append(m)
            if len(got) == N:
                break
        c.close()
        assert [m.value for m in got] == [b"%d" % i for i in range(N)], (codec, len(got))
        assert [m.headers for m in got] == [[("h", b"%d" % i)] for i in range(N)] or \
            [list(m.headers) for m in got] == [[("h", b"%d" % i)] for i in range(N)]


def group():
    """Two members of one group read everything once between them; a later one finds nothing new."""
    import kafka
    from kafka.admin import KafkaAdminClient, NewTopic
    a = KafkaAdminClient(bootstrap_servers=servers)
    a.create_topics([NewTopic(topic, 4, 1)])
    time.sleep(0.5)
    seen, lock, stop = [], threading.Lock(), threading.Event()

    def member():
        c = kafka.KafkaConsumer(topic, bootstrap_servers=servers, group_id=topic + "-g",
                                auto_offset_reset="earliest", enable_auto_commit=False)
        while not stop.is_set():
            for records in c.poll(200).values():
                with lock:
                    seen.extend((r.partition, r.offset) for r in records)
            c.commit()
        c.close()

    members = [threading.Thread(target=member) for _ in range(2)]
    for t in members:
        t.start()
    time.sleep(4)
    p = kafka.KafkaProducer(bootstrap_servers=servers, acks="all")
    for i in range(N):
        p.send(topic, b"%d" % i, partition=i % 4)
    p.flush(20)
    end = time.time() + 30
    while time.time() < end and len(seen) < N:
        time.sleep(0.1)
    time.sleep(0.5)
    stop.set()
    for t in members:
        t.join()
    assert sorted(seen) == [(q, o) for q in range(4) for o in range(N // 4)], len(seen)
    c = kafka.KafkaConsumer(bootstrap_servers=servers, group_id=topic + "-g")
    for q in range(4):
        assert c.committed(kafka.TopicPartition(topic, q)) == N // 4
    c.close()
    a.close()
    p.close()


def aio():
    import aiokafka

    async def run():
        p = aiokafka.AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True)
        await p.start()
        for i in range(N):
            await p.send(topic, b"%d" % i, partition=0)
        await p.stop()
        c = aiokafka.AIOKafkaConsumer(topic, bootstrap_servers=servers, group_id=topic + "-aio",
                                      auto_offset_reset="earliest")
        await c.start()
        got = [int((await asyncio.wait_for(c.getone(), 20)).value) for _ in range(N)]
        await c.commit()
        await c.stop()
        assert got == list(range(N))

    asyncio.run(run())


def site():
    import kafka
    name, partitions, rate = sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
    p = kafka.KafkaProducer(bootstrap_servers=servers.split(","), acks="all", linger_ms=5, enable_idempotence=True,
                            request_timeout_ms=5000, delivery_timeout_ms=120000, metadata_max_age_ms=5000,
                            reconnect_backoff_max_ms=1000, max_block_ms=60000)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()

    def said(*words):
        os.write(1, (" ".join(str(w) for w in words) + "\n").encode())

    number, begin = 0, time.time()
    while not ended.is_set():
        if number > (time.time() - begin) * rate:
            time.sleep(0.01)
            continue
        for partition in range(partitions):
            sent = p.send(topic, b"%s:%d" % (name.encode(), number), partition=partition)
            sent.add_callback(lambda m, n=number: said("acked", m.partition, m.offset, n))
            sent.add_errback(lambda e, n=number, q=partition: said("failed", q, n, type(e).__name__))
        number += 1
    p.flush(120)
    p.close()


globals()[scenario]()
print(scenario, "ok")
