"""Builds what the benchmarks need: the load generators, the sync delay, and the peers from their registries."""
import os
import shutil
import subprocess
import sys

from brokers import CACHE, ROOT


def step(what, command, done=None, **more):
    if done and (CACHE / done).exists():
        return True
    print(f"  preparing {what} ...", file=sys.stderr, flush=True)
    log = CACHE / "bench-setup.log"
    with open(log, "a") as out:
        code = subprocess.run(command, stdout=out, stderr=out, check=False, **more).returncode
    if code:
        print(f"  {what} is missing from this run: see {log}", file=sys.stderr)
    return code == 0


def install():
    CACHE.mkdir(parents=True, exist_ok=True)
    if not step("what the tests need", [ROOT / "tests/setup/install"]):
        sys.exit("tests/setup/install failed")
    cargo = ["cargo", "build", "--release", "--quiet"]
    if not os.environ.get("WEIR_BIN") and not step("Weir's release binary", cargo, cwd=ROOT):
        sys.exit("cargo build failed")
    step("the load generators", [*cargo, "-p", "weir-tests", "--bin", "weir-load", "--bin", "weir-retention"], cwd=ROOT)
    for what, name in [("the sync delay", "delay"), ("the generator of large logs", "sparse")]:
        step(what, ["cc", "-O2", "-shared", "-fPIC", "-o", CACHE / f"{name}.so", ROOT / f"tests/bench/{name}.c", "-ldl"])
    peers = CACHE / "peers"
    if shutil.which("go"):
        step("the Kafka load generator", ["go", "build", "-o", CACHE / "gobench", "./bench"],
             cwd=ROOT / "tests/clients/go")
        step("NATS (Go module)", ["go", "install", "github.com/nats-io/nats-server/v2@v2.15.2"],
             done="peers/bin/nats-server", env=dict(os.environ, GOBIN=str(peers / "bin")))
    step("rumqttd (crate)", ["cargo", "install", "--quiet", "--root", peers, "rumqttd", "--version", "0.20.0"],
         done="peers/bin/rumqttd")
