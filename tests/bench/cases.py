"""The cases of the benchmarks: what is asked of which broker, and which figures come of it."""
import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import device
import flashlog
import three
from brokers import CACHE, ROOT, TARGET, Kafka, KafkaSync, Mosquitto, Nats, Rumqttd, Weir, available


def output(command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def franz(mode, broker, *more):
    return json.loads(output([CACHE / "gobench", mode, f"127.0.0.1:{broker.kafka}", "bench", *more]))


def mqtt_load(mode, broker, *more):
    return json.loads(output([TARGET / "release/weir-load", mode, "--addr", f"127.0.0.1:{broker.mqtt}", *more]))


def kafka_tool(name, *args):
    os.environ.setdefault("WEIR_TESTS_CACHE", str(CACHE))
    return output([ROOT / "tests/setup/kafka", "tool", name, *args])


def topic(broker, partitions):
    kafka_tool("topics", "--bootstrap-server", f"127.0.0.1:{broker.kafka}", "--create", "--topic", "bench",
               "--partitions", partitions)


def with_broker(kind, delay_ms=0):
    """Wraps a case in the start and the end of its broker."""
    def wrap(case):
        @functools.wraps(case)
        def run(folder):
            why_not = available(kind)
            if why_not:
                raise RuntimeError(why_not)
            broker = kind(folder / "broker", delay_ms)
            try:
                return case(broker)
            finally:
                broker.stop()
        return run
    return wrap


def spent(broker):
    return {"CPU s/M": broker.cpu_s(), "flushes/M": device.disk_flushes(broker.folder)}


def cost(broker, before, messages):
    return {what: (after - before[what]) * 1e6 / messages
            for what, after in spent(broker).items() if after is not None}


def produce(broker, size, partitions, records):
    topic(broker, partitions)
    franz("produce", broker, records // 10, size)
    before = spent(broker)
    got = franz("produce", broker, records, size)
    return {"records/s": got["per_s"], "p99 ms": got["p99_ms"], **cost(broker, before, records)}


def java(broker, size, partitions, records):
    topic(broker, partitions)
    args = ["--topic", "bench", "--record-size", size, "--throughput", "-1", "--producer-props",
            f"bootstrap.servers=127.0.0.1:{broker.kafka}", "acks=all"]
    before = spent(broker)
    text = kafka_tool("producer-perf-test", "--num-records", records, *args)
    rate = float(text.strip().splitlines()[-1].split(" records/sec")[0].split(",")[-1])
    return {"records/s": rate, **cost(broker, before, records)}


def consume(broker, records=1_000_000):
    topic(broker, 1)
    franz("produce", broker, records, 100)
    before = spent(broker)
    got = franz("consume", broker, records)
    return {"records/s": got["per_s"], **cost(broker, before, records)}


def e2e(broker):
    topic(broker, 1)
    got = franz("e2e", broker, 10_000, 100, 1000)
    return {"p50 ms": got["p50_ms"], "p99 ms": got["p99_ms"]}


def mqtt(broker, *options):
    before = spent(broker)
    got = mqtt_load("publish", broker, *options)
    if got["refused"]:
        raise RuntimeError(f"{got['refused']} packets refused")
    # The warm-up second costs too: it is a sixth of the messages.
    return {"messages/s": got["per_s"], "p50 ms": got["p50_ms"], "p99 ms": got["p99_ms"],
            **cost(broker, before, got["count"] * 6 / 5)}


def memory(broker):
    time.sleep(1)
    idle = broker.rss_mib()
    load = subprocess.Popen([TARGET / "release/weir-load", "idle", "--addr", f"127.0.0.1:{broker.mqtt}",
                             "--seconds", "4"], stdout=subprocess.PIPE)
    load.stdout.readline()
    time.sleep(1)
    full = broker.rss_mib()
    load.wait()
    return {"idle MiB": idle, "1,000 connections MiB": full}


def start(broker):
    row = {"to accepting, ms": broker.ready_s * 1000}
    if isinstance(broker, Weir):
        binary = pathlib.Path(os.environ.get("WEIR_BIN", TARGET / "release/weir"))
        row["binary MB"] = binary.stat().st_size / 1e6
    return row


def subjects(case, kinds, **arguments):
    rows = {}
    for kind, delay in kinds:
        label = kind.name + (f", +{delay} ms" if delay else "")
        rows[label] = with_broker(kind, delay)(functools.partial(case, **arguments))
    return rows


def on_loop(kind, case):
    """A broker in a file system of its own, whose device counts."""
    return flashlog.on_loop(5000, lambda loop: with_broker(kind)(
        lambda broker: case(broker, loop, sys.modules[__name__]))(loop.mount))


def matrix(case, kinds, shapes):
    rows = {}
    for size, partitions, records in shapes:
        for label, run in subjects(case, kinds, size=size, partitions=partitions, records=records).items():
            rows[f"{size} B, {partitions} partitions: {label}"] = run
    return rows


def mqtt_subjects(kinds, *options):
    return {label: run for kind, delay in kinds
            for label, run in subjects(lambda b: mqtt(b, *options), [(kind, delay)]).items()}


KAFKAS = [(Weir, 0), (Weir, 10), (Kafka, 0), (KafkaSync, 0)]
MQTTS = [(Weir, 0), (Weir, 10), (Mosquitto, 0), (Rumqttd, 0), (Nats, 0)]
SYNCED = [(Weir, 0), (Weir, 10), (KafkaSync, 0), (KafkaSync, 10)]
# Title, the figures that rows are compared by, and the rows: a figure is given as the first row's by the others'.
ALL = {
    "produce": ("Kafka produce, acks=all, franz-go", ["records/s", "CPU s/M"], matrix(produce, KAFKAS, [
        (100, 1, 2_000_000), (100, 100, 1_000_000), (1024, 1, 300_000), (1024, 100, 300_000)])),
    "java": ("Kafka produce, acks=all, Java client, synced", ["records/s", "CPU s/M"], matrix(java, SYNCED, [
        (100, 1, 200_000), (100, 100, 100_000), (1024, 1, 30_000)])),
    "consume": ("Kafka consume, 100 B", ["records/s", "CPU s/M"], subjects(consume, [(Weir, 0), (Kafka, 0)])),
    "e2e": ("End to end, 100 B at 1,000/s", ["p50 ms", "p99 ms"], subjects(e2e, [(Weir, 0), (Weir, 10), (Kafka, 0)])),
    "mqtt1": ("MQTT QoS 1, 50 connections, window 100", ["messages/s", "CPU s/M"],
              mqtt_subjects(MQTTS, "--qos", "1")),
    "rate": ("MQTT QoS 1, 2,000/s over 50 connections", ["p99 ms", "CPU s/M"], mqtt_subjects(
        [(Weir, 0), (Weir, 10), (Mosquitto, 0), (Nats, 0)], "--qos", "1", "--rate", "2000")),
    "mqtt0": ("MQTT QoS 0, 50 connections", ["messages/s", "CPU s/M"], mqtt_subjects(
        [(Weir, 0), (Mosquitto, 0), (Nats, 0)], "--qos", "0")),
    "memory": ("Memory", ["idle MiB", "1,000 connections MiB"],
               subjects(memory, [(Weir, 0), (Mosquitto, 0), (Rumqttd, 0), (Nats, 0)])),
    "start": ("Start", ["to accepting, ms"],
              subjects(start, [(Weir, 0), (Mosquitto, 0), (Rumqttd, 0), (Nats, 0), (Kafka, 0)])),
    "commit": ("One durable commit of 100 partitions x 1 KiB", ["flushes", "amplification"], {
        "Weir": device.weir_commits, "a file a partition, fdatasync each": device.file_commits}),
    "cleaning": ("Commits of 100 partitions x 1 KiB, 50/s, in a log of 256 MiB", ["p50 ms", "p99 ms", "max ms"],
                 flashlog.CLEANING),
    "compaction": ("Key compaction, 500,000 x 200 B of 20,000 keys", ["MB/s", "CPU s/GB", "device bytes a byte"],
                   {kind.name: on_loop(kind, flashlog.compaction) for kind in (Weir, flashlog.EagerKafka)}),
    "retention": ("Write amplification of records that are kept for different times, as many of each; 512 slots of "
                  "1 MiB where nothing is said", ["amplification"], flashlog.RETENTION),
    "catch-up": ("Reading one partition of 100, and all, from an empty cache", ["MB/s"], flashlog.CATCH_UP),
    "large": ("Memory and start of a log that is 88 % full, 100 partitions; payloads are zeros, kept as holes of a "
              "sparse file", ["start ms"], flashlog.LARGE),
}
ALL |= three.all_cases(sys.modules[__name__])
# Of cases that take minutes.
ROUNDS = {"failover": 1, "site-catch-up": 1, "site-idle": 1, "cleaning": 2, "retention": 1, "compaction": 1, "large": 1}
