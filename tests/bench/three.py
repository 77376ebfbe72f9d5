"""Sites of three gateways and of three Kafka nodes: what replication costs, and how long a failed leader is missed."""
import concurrent.futures
import json
import re
import secrets
import subprocess
import time

from brokers import CACHE, Kafka, Weir, free_port

NODES = (1, 2, 3)


class Site:
    """Three brokers as one: `kafka` is what franz-go and Kafka's tools take as bootstrap addresses behind a host."""
    nodes = ()

    @property
    def kafka(self):
        return ",127.0.0.1:".join(str(node.kafka) for node in self.nodes)

    @property
    def folder(self):
        return self.nodes[0].folder

    def cpu_s(self):
        return sum(node.cpu_s() for node in self.nodes)

    def stop(self):
        for node in self.nodes:
            node.stop()


class WeirNode(Weir):
    def __init__(self, folder, settings, delay_ms):
        self.settings = settings
        super().__init__(folder, delay_ms, settings)

    def spawn(self, command, port):
        # Nobody is served before the quorum is there: the site waits for all.
        log = open(self.folder / "log", "a")
        self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.folder)
        self.pid = self.process.pid

    def fail(self):
        self.kill()

    def come_back(self):
        self.spawn(self.command, self.mqtt)
        self.wait_ready()


class WeirSite(Site):
    name = "Weir (sync before ack)"

    def __init__(self, folder, delay_ms=0):
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder.parent / "secret"
        secret.write_text(secrets.token_hex(16))
        secret.chmod(0o600)
        self.peers = [free_port() for _ in NODES]
        voters = ", ".join(f'"{node}@127.0.0.1:{peer}"' for node, peer in zip(NODES, self.peers))
        self.nodes = [
            WeirNode(folder / str(node), [
                f"node.id={node}", f"peer.listen=127.0.0.1:{peer}", f"cluster.voters=[{voters}]",
                f"cluster.secret_file={secret}"], delay_ms)
            for node, peer in zip(NODES, self.peers)]
        for node in self.nodes:
            node.wait_ready()


class KafkaNode(Kafka):
    def __init__(self, folder, node, ports, delay_ms, more):
        voters = ",".join(f"{other}@127.0.0.1:{port + 1}" for other, port in zip(NODES, ports))
        port = ports[node - 1]
        self.port = port
        self.properties = (
            f"node.id={node}\ncontroller.quorum.voters={voters}\n"
            "offsets.topic.replication.factor=3\ntransaction.state.log.replication.factor=3\n" + more)
        super().__init__(folder, delay_ms)

    def start(self):
        self.kafka = self.port
        super().start()

    def fail(self):
        self.end("KILL")

    def come_back(self):
        self.start()


class KafkaSite(Site):
    name = "Kafka 4.3.1 as it comes (no sync)"
    more = ""

    def __init__(self, folder, delay_ms=0):
        folder.mkdir(parents=True, exist_ok=True)
        ports = [free_port(2) for _ in NODES]
        # None is ready before two are there.
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            nodes = [pool.submit(KafkaNode, folder / str(node), node, ports, delay_ms, self.more) for node in NODES]
            self.nodes = [node.result() for node in nodes]


class KafkaSyncSite(KafkaSite):
    name = "Kafka 4.3.1, flush.messages=1"
    more = "log.flush.interval.messages=1\n"


def create(site, cases, partitions):
    cases.kafka_tool("topics", "--bootstrap-server", f"127.0.0.1:{site.kafka}", "--create", "--topic", "bench",
                     "--partitions", partitions, "--replication-factor", 3, "--config", "min.insync.replicas=2")


def produce(site, cases, records=300_000, size=100, partitions=1):
    create(site, cases, partitions)
    cases.franz("produce", site, records // 10, size)
    before = cases.spent(site)
    got = cases.franz("produce", site, records, size)
    return {"records/s": got["per_s"], "p99 ms": got["p99_ms"], **cases.cost(site, before, records)}


def latency(site, cases, records=5_000):
    """One record at a time, at 500/s: what a flush on two gateways takes."""
    create(site, cases, 1)
    got = cases.franz("e2e", site, records, 100, 500)
    return {"p50 ms": got["p50_ms"], "p99 ms": got["p99_ms"]}


def state(site):
    """What kcat says of the topic's first partition."""
    command = ["kcat", "-b", f"127.0.0.1:{site.kafka}", "-L", "-J", "-t", "bench"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return said["topics"][0]["partitions"][0]


def failover(site, cases, times=5):
    """The leader's process is killed under 200 records/s; the longest time without an acknowledgement counts."""
    create(site, cases, 1)
    gaps = []
    for _ in range(times):
        led_by = site.nodes[state(site)["leader"] - 1]
        load = subprocess.Popen([CACHE / "gobench", "gap", f"127.0.0.1:{site.kafka}", "bench", "20", "200"],
                                stdout=subprocess.PIPE)
        time.sleep(4)
        led_by.fail()
        gaps.append(json.loads(load.communicate(timeout=120)[0])["gap_ms"])
        led_by.come_back()
        time.sleep(3)
    gaps.sort()
    return {"median ms": gaps[len(gaps) // 2], "worst ms": gaps[-1]}


def catch_up(site, cases, records=1_000_000, size=1024):
    """A follower was away for 1 GiB and comes back, while 500 records/s go on."""
    create(site, cases, 1)
    quiet = cases.franz("e2e", site, 5_000, 100, 500)
    away = site.nodes[state(site)["leader"] % len(NODES)]
    away.fail()
    cases.franz("produce", site, records, size)
    load = subprocess.Popen([CACHE / "gobench", "e2e", f"127.0.0.1:{site.kafka}", "bench", "10000", "100", "500"],
                            stdout=subprocess.PIPE)
    time.sleep(2)
    away.come_back()
    start = time.perf_counter()
    while len(state(site)["isrs"]) < len(NODES):
        time.sleep(0.1)
    taken = time.perf_counter() - start
    busy = json.loads(load.communicate(timeout=300)[0])
    return {"MB/s": records * size / taken / 1e6, "p99 ms meanwhile": busy["p99_ms"], "p99 ms before": quiet["p99_ms"],
            "MiB at most of the one that was away": away.rss_mib("VmHWM")}


def peer_bytes(site):
    """Bytes that the gateways have sent each other so far, without headers."""
    text = subprocess.run(["ss", "-Htin"], capture_output=True, text=True, check=True).stdout
    ports, total, counts = {f":{port}" for port in site.peers}, 0, False
    for line in text.splitlines():
        if not line.startswith((" ", "\t")):
            counts = any(address.endswith(tuple(ports)) for address in line.split()[3:5])
        elif counts:
            total += sum(int(n) for n in re.findall(r"bytes_sent:(\d+)", line))
    return total


def idle(site, cases, seconds=20):
    """100 partitions on all three, and nothing to do."""
    create(site, cases, 100)
    time.sleep(5)
    before, sent = site.cpu_s(), peer_bytes(site) if isinstance(site, WeirSite) else None
    time.sleep(seconds)
    row = {"CPU % a node": (site.cpu_s() - before) * 100 / seconds / 3,
           "MiB a node": max(node.rss_mib() for node in site.nodes)}
    if sent is not None:
        row["bytes/s a pair"] = (peer_bytes(site) - sent) / seconds / 3
    return row


def rows(case, kinds, cases, **arguments):
    def run(kind, delay_ms):
        def measure(folder):
            site = kind(folder / "site", delay_ms)
            try:
                return case(site, cases, **arguments)
            finally:
                site.stop()
        return measure
    return {kind.name + (f", +{delay} ms" if delay else ""): run(kind, delay) for kind, delay in kinds}


def all_cases(cases):
    kinds = [(WeirSite, 0), (WeirSite, 10), (KafkaSite, 0), (KafkaSyncSite, 0), (KafkaSyncSite, 10)]
    plain = [(WeirSite, 0), (KafkaSite, 0)]
    return {
        "site": ("Three nodes, replication factor 3, min.insync.replicas=2, acks=all, 100 B", ["records/s", "CPU s/M"],
                 rows(produce, kinds, cases)),
        "site-latency": ("The same, end to end at 500/s", ["p50 ms", "p99 ms"], rows(latency, kinds, cases)),
        "failover": ("The leader is killed under 200 records/s: longest time without an acknowledgement",
                     ["median ms", "worst ms"], rows(failover, plain, cases)),
        "site-catch-up": ("A gateway that was away for 1 GiB comes back", ["MB/s", "p99 ms meanwhile"],
                          rows(catch_up, plain, cases)),
        "site-idle": ("100 partitions on three nodes, idle", ["CPU % a node", "MiB a node"],
                      rows(idle, plain, cases)),
    }
