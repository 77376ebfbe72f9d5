"""Brokers that the benchmarks start: Weir and its peers, each in a folder of its own, ended by process id."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("WEIR_TESTS_CACHE", ROOT / "tests/.cache")).resolve()
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TICK = os.sysconf("SC_CLK_TCK")


def free_port(count=1):
    """The first of some neighbouring ports that nobody uses, below those of outgoing connections."""
    while True:
        port = random.randrange(10_000, 32_000)
        try:
            for neighbour in range(port, port + count):
                with socket.socket() as s:
                    s.bind(("127.0.0.1", neighbour))
            return port
        except OSError:
            continue


def wait_port(port, alive, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        if not alive():
            raise RuntimeError("the broker ended at its start")
        time.sleep(0.001)
    raise RuntimeError(f"nobody listens on {port}")


class Broker:
    """A running broker; `delay_ms` is added to each of its syncs."""
    name, kafka, mqtt, ready_s = "", None, None, 0.0

    def __init__(self, folder, delay_ms=0):
        self.folder = pathlib.Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.environment = dict(os.environ)
        if delay_ms:
            self.environment |= {"LD_PRELOAD": str(CACHE / "delay.so"),
                                 "WEIR_SYNC_DELAY_US": str(delay_ms * 1000)}
        self.process, self.pid = None, None

    def spawn(self, command, port):
        log = open(self.folder / "log", "w")
        start = time.perf_counter()
        self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.folder)
        self.pid = self.process.pid
        try:
            wait_port(port, lambda: self.process.poll() is None)
        except RuntimeError as error:
            said = (self.folder / "log").read_text().strip().splitlines()
            raise RuntimeError(": ".join([str(error), *said[-1:]])) from None
        self.ready_s = time.perf_counter() - start

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss_mib(self, line="VmRSS"):
        with open(f"/proc/{self.pid}/status") as f:
            return next(int(said.split()[1]) for said in f if said.startswith(line)) / 1024

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def stop(self):
        if self.process:
            self.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class Weir(Broker):
    name = "Weir (sync before ack)"

    def __init__(self, folder, delay_ms=0, settings=(), bytes_max="4GiB", preload=None):
        super().__init__(folder, delay_ms)
        if preload:
            self.environment["LD_PRELOAD"] = str(preload)
        self.kafka, self.mqtt, self.http = free_port(), free_port(), free_port()
        settings = [f"kafka.listen=127.0.0.1:{self.kafka}", f"mqtt.listen=127.0.0.1:{self.mqtt}",
                    f"http.listen=127.0.0.1:{self.http}", f"flash.bytes={bytes_max}",
                    "flash.flushes_per_second=0", *settings]
        command = [os.environ.get("WEIR_BIN", str(ROOT / "target/release/weir")), "serve", "--data", "data"]
        for setting in settings:
            command += ["--set", setting]
        self.command = command
        self.spawn(command, self.mqtt)

    def restart(self, between):
        self.end()
        between()
        self.spawn(self.command, self.mqtt)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def wait_ready(self):
        """Until it serves what it has."""
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=10):
                    return
            except OSError:  # nobody listens yet, or the answer is 503
                time.sleep(0.002)

    def log(self):
        return self.status()["log"]

    def status(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/api/v1/status", timeout=10) as answer:
            return json.load(answer)


class Kafka(Broker):
    name = "Kafka 4.3.1 as it comes (no sync)"
    properties = ""

    def __init__(self, folder, delay_ms=0):
        super().__init__(folder)
        self.kafka = free_port(2)  # one for clients, the next for its controller
        extra = self.folder / "extra.properties"
        extra.write_text(self.properties)
        environment = dict(os.environ, KAFKA_PROPS=str(extra), KAFKA_HEAP="-Xms1G -Xmx1G",
                           WEIR_TESTS_CACHE=str(CACHE))
        if delay_ms:
            environment |= {"KAFKA_PRELOAD": str(CACHE / "delay.so"), "WEIR_SYNC_DELAY_US": str(delay_ms * 1000)}
        self.script, self.environment = str(ROOT / "tests/setup/kafka"), environment
        start = time.perf_counter()
        self.start()
        self.ready_s = time.perf_counter() - start

    def start(self):
        command = [self.script, "start", self.folder, str(self.kafka)]
        subprocess.run(command, env=self.environment, check=True)
        self.pid = int((self.folder / "pid").read_text())

    def end(self, how):
        subprocess.run([self.script, "kill", self.folder, how], env=self.environment, check=False)

    def restart(self, between):
        self.end("TERM")
        between()
        self.start()

    def stop(self):
        self.end("KILL")
        shutil.rmtree(self.folder, ignore_errors=True)


class KafkaSync(Kafka):
    name = "Kafka 4.3.1, flush.messages=1"
    properties = "log.flush.interval.messages=1\n"


class Mosquitto(Broker):
    name = "Mosquitto (no sync)"

    def __init__(self, folder, delay_ms=0):
        super().__init__(folder, delay_ms)
        self.mqtt = free_port()
        (self.folder / "m.conf").write_text(
            f"listener {self.mqtt} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\n"
            f"max_queued_messages 0\npersistence true\npersistence_location {self.folder}/\nuser root\n")
        path = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.spawn([path, "-c", str(self.folder / "m.conf")], self.mqtt)


class Rumqttd(Broker):
    name = "rumqttd (no sync)"

    def __init__(self, folder, delay_ms=0):
        super().__init__(folder, delay_ms)
        self.mqtt = free_port()
        (self.folder / "r.toml").write_text(f"""id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "127.0.0.1:{self.mqtt}"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = 500
dynamic_filters = true
""")
        self.spawn([str(CACHE / "peers/bin/rumqttd"), "-c", "r.toml"], self.mqtt)


class Nats(Broker):
    name = "NATS, sync always"

    def __init__(self, folder, delay_ms=0):
        super().__init__(folder, delay_ms)
        self.mqtt = free_port()
        (self.folder / "n.conf").write_text(f"""server_name: bench
listen: 127.0.0.1:{free_port()}
jetstream {{ store_dir: "{self.folder}/js", sync_interval: always }}
mqtt {{ listen: "127.0.0.1:{self.mqtt}", max_ack_pending: 65535 }}
""")
        self.spawn([str(CACHE / "peers/bin/nats-server"), "-c", "n.conf"], self.mqtt)


def available(broker):
    """Why a peer cannot be measured here; None when it can."""
    needed = {Rumqttd: "peers/bin/rumqttd", Nats: "peers/bin/nats-server"}.get(broker)
    return f"{broker.name}: not built" if needed and not (CACHE / needed).exists() else None
