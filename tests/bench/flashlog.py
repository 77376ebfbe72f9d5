"""What the flash log does besides appending: cleaning, key compaction, reading scattered partitions, starting large."""
import json
import os
import pathlib
import resource
import subprocess
import time

from brokers import CACHE, TARGET, Kafka, Weir
from device import Loop, sh
from produce import Client

PARTITIONS, RECORD = 100, 1024
MIB = 1 << 20


def on_loop(mib, case):
    """Wraps a case in a file system of its own, whose device counts."""
    def run(folder):
        loop = Loop(folder, mib)
        try:
            return case(loop)
        finally:
            loop.close()
    return run


def quantile(values, share):
    return sorted(values)[int(len(values) * share)]


def cleaning(loop, lasting, seconds=20, rate=25):
    """At a rate, two commits of 100 x 1 KiB each to a log of 256 MiB that has been around once: one of records that
    soon go, and one of records of which so many KiB a partition stay. If these stay long, they are still there when
    the others in their slots are gone, and the slots that are needed have to be cleaned; else slots die whole."""
    broker = Weir(loop.mount / "broker", bytes_max="256MiB")
    try:
        topics = [Client(broker.kafka, name, PARTITIONS, RECORD,
                         [("retention.ms", "-1"), ("retention.bytes", str(kib << 10))])
                  for name, kib in (("goes", 64), ("lasts", lasting))]
        written = 0
        while written < 350 * MIB:
            written += sum(insist(topic.commit) for topic in topics)
        before, log, cpu = loop.counters(), broker.log(), broker.cpu_s()
        latencies, begin = [], time.perf_counter()
        for number in range(seconds * rate):
            due = begin + number / rate
            time.sleep(max(0, due - time.perf_counter()))
            for topic in topics:
                insist(topic.commit)
                latencies.append((time.perf_counter() - due) * 1000)
                due = time.perf_counter()
        after, log_after = loop.counters(), broker.log()
        commits = len(latencies)
        return {"p50 ms": quantile(latencies, 0.5), "p99 ms": quantile(latencies, 0.99), "max ms": max(latencies),
                "MiB cleaned": (log_after["cleaned_bytes"] - log["cleaned_bytes"]) / MIB,
                "device bytes a byte": (after[1] - before[1]) / (commits * topics[0].bytes),
                "flushes a commit": (after[2] - before[2]) / commits,
                "CPU ms a commit": (broker.cpu_s() - cpu) * 1000 / commits}
    finally:
        broker.stop()


def insist(commit):
    """A log that is full has room again when its records were expired or cleaned: a client's retries."""
    for _ in range(300):
        try:
            return commit()
        except RuntimeError as error:
            last = error
            time.sleep(0.1)
    raise last


def retention(*options):
    """The broker's log on a disk of memory that counts, and with a clock that runs through three weeks."""
    def run(_):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([TARGET / "release/weir-retention", *options], capture_output=True, text=True, check=True)
        row, after = json.loads(done.stdout), resource.getrusage(resource.RUSAGE_CHILDREN)
        return {"amplification": row["amplification"], "% live": row["live"] * 100,
                "MiB appended": row["payload_mib"], "MiB copied": row["cleaned_mib"],
                "records expired early": row["expired_early"],
                "flushes a commit": row["flushes"] / row["commits"], "CPU s": after.ru_utime - before.ru_utime}
    return run


class EagerKafka(Kafka):
    """Its cleaner starts at once, and leaves only a small segment alone."""
    properties = ("log.cleaner.backoff.ms=100\nlog.segment.bytes=8388608\nlog.cleaner.min.cleanable.ratio=0.01\n")


def stored(broker):
    """Bytes of the topic `bench` that are not compacted away."""
    if isinstance(broker, Weir):
        topics = broker.status()["topics"]
        return sum(p["bytes"] for t in topics if t["name"] == "bench" for p in t["partitions"])
    files = pathlib.Path(broker.folder, "data/bench-0").glob("*.log")
    return sum(size(f) for f in files)


def size(file):
    try:
        return file.stat().st_size
    except FileNotFoundError:  # the cleaner was quicker
        return 0


def compaction(broker, loop, tools, records=500_000, record=200, keys=20_000, limit_s=120):
    """Keyed records at rest, then `cleanup.policy=compact`: how fast a quarter of them is left. A twenty-fifth would
    do; the rest is what Kafka leaves in its open segment. A gateway that has just started does not trust its clock
    for ten seconds, so both are let be before. What is written and flushed is counted until they rest again, and what
    they leave to the page cache counts, too."""
    topic = Client(broker.kafka, "bench", 1, record)
    tools.franz("keyed", broker, records, record, keys)
    time.sleep(12)
    sh("sync", "-f", loop.mount)
    full, cpu, before = stored(broker), broker.cpu_s(), loop.counters()
    begin = time.perf_counter()
    topic.set_config("cleanup.policy", "compact")
    while stored(broker) > full / 4:
        if time.perf_counter() - begin > limit_s:
            raise RuntimeError(f"{stored(broker) / MIB:.0f} of {full / MIB:.0f} MiB are left after {limit_s} s")
        time.sleep(0.02)
    took, cpu = time.perf_counter() - begin, broker.cpu_s() - cpu
    time.sleep(3)
    flushes = loop.counters()[2] - before[2]
    sh("sync", "-f", loop.mount)
    return {"MB/s": full / took / 1e6, "CPU s/GB": cpu / full * 1e9, "flushes/GB": flushes / full * 1e9,
            "device bytes a byte": (loop.counters()[1] - before[1]) / full, "left": stored(broker) / full}


def catch_up(loop, partitions, commits=2000):
    """Reads these of 100 partitions from their beginning, with an empty page cache."""
    broker = Weir(loop.mount / "broker", bytes_max="1GiB")
    try:
        client = Client(broker.kafka, "bench", PARTITIONS, RECORD)
        for _ in range(commits):
            client.commit()
        client.socket.close()
        broker.restart(loop.forget)
        client.connect(broker.kafka)
        client.wait_leaders(commits)
        before, cpu, begin = loop.bytes_read(), broker.cpu_s(), time.perf_counter()
        got = client.read(partitions, commits)
        took = time.perf_counter() - begin
        return {"s": took, "MB/s": got / took / 1e6, "device bytes a byte": (loop.bytes_read() - before) / got,
                "CPU s": broker.cpu_s() - cpu}
    finally:
        broker.stop()


def large(gib, record):
    """A log that is nearly full of zeros, of which only what is not zero takes space of the disk: memory, and the
    time from `kill -9` and an empty page cache until it serves."""
    def run(folder):
        broker = Weir(folder / "broker", bytes_max=f"{gib}GiB", preload=CACHE / "sparse.so")
        try:
            broker.wait_ready()
            empty = broker.rss_mib()
            client = Client(broker.kafka, "bench", PARTITIONS, record, [("retention.ms", "-1")], zeros=True)
            begin, commits = time.perf_counter(), gib * 900 * MIB // client.bytes  # 88 %
            for _ in range(commits):
                client.commit()
            filled = time.perf_counter() - begin
            client.socket.close()
            broker.kill()
            log = broker.folder / "data/flash.log"
            forget(log)
            del broker.environment["LD_PRELOAD"]
            begin = time.perf_counter()
            broker.spawn(broker.command, broker.mqtt)
            broker.wait_ready()
            ready, cpu, rss = time.perf_counter() - begin, broker.cpu_s(), broker.rss_mib()
            read = broker.log()["start_bytes_read"]
            client.connect(broker.kafka)
            client.wait_leaders(commits)
            for offset in range(0, commits, commits // 5):
                for partition in range(PARTITIONS):
                    list(client.fetch({partition: offset}, wait_ms=0, bytes_max=1))
            index = broker.log()["index"]
            return {"index runs": index["runs"], "MiB for them": index["runs_bytes"] / MIB,
                    "MiB for cached extents": index["extents_bytes"] / MIB,
                    "GB stored": commits * client.bytes / 1e9, "start ms": ready * 1000, "start CPU ms": cpu * 1000,
                    "MiB read to start": read / MIB, "RSS empty, MiB": empty, "RSS started, MiB": rss,
                    "RSS after reads all over, MiB": broker.rss_mib(), "filled in s": filled,
                    "GB on disk": log.stat().st_blocks * 512 / 1e9}
        finally:
            broker.stop()
    return run


def forget(path):
    """Empties the page cache of a file."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


CLEANING = {"slots are cleaned": on_loop(400, lambda loop: cleaning(loop, 1024)),
            "slots die whole": on_loop(400, lambda loop: cleaning(loop, 64))}
# Records that stand in one lane and die at different times leave slots half dead, which have to be copied.
APART, MIXED = "1 h, 1 d and 7 d, a lane each", "3 d, 5 d and 7 d, all in one lane"
RETENTION = {f"60 % live: {MIXED}": retention("--live", "60", "--hours", "72,120,168"),
             f"60 % live: {APART}": retention("--live", "60"),
             f"76 % live, 85 % with frames, padding, footers: {MIXED}":
                 retention("--live", "76", "--hours", "72,120,168"),
             f"76 % live, 85 % with frames, padding, footers: {APART}": retention("--live", "76"),
             f"76 % live, 85 % with frames, padding, footers: {APART}, slots of 4 MiB":
                 retention("--live", "76", "--slot-bytes", str(4 * MIB)),
             f"85 % live, more than the log holds without expiring early: {APART}": retention("--live", "85")}
CATCH_UP = {"all partitions": on_loop(1400, lambda loop: catch_up(loop, range(PARTITIONS))),
            "one of 100": on_loop(1400, lambda loop: catch_up(loop, [7]))}
LARGE = {"1 GiB": large(1, 16 << 10), "8 GiB": large(8, 16 << 10), "32 GiB": large(32, 32 << 10)}
