"""What reaches the device: writes, flushes and bytes of an ext4 file system on a loop device of its own."""
import os
import pathlib
import subprocess
import tempfile
import time

PARTITIONS, RECORD, COMMITS = 100, 1024, 200


def disk_flushes(path):
    """Flushes so far of the whole disk that this is on; `None` where the kernel does not count them."""
    device = os.stat(path).st_dev
    folder = pathlib.Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    disk = folder.parent if (folder / "partition").exists() else folder
    try:
        return int((disk / "stat").read_text().split()[15]) or None
    except (OSError, IndexError):
        return None


def sh(*command):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout.strip()


class Loop:
    """A mounted ext4 on a loop device; `counters` are (writes, bytes, flushes) since the start."""

    def __init__(self, folder, mib=1024):
        self.image = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "disk"
        with open(self.image, "wb") as f:
            f.truncate(mib << 20)
        self.device = sh("losetup", "--find", "--show", self.image)
        sh("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.device)
        self.mount = self.image.parent / "mnt"
        self.mount.mkdir()
        sh("mount", "-o", "noatime", self.device, self.mount)

    def counters(self):
        stat = open(f"/sys/block/{pathlib.Path(self.device).name}/stat").read().split()
        return int(stat[4]), int(stat[6]) * 512, int(stat[15])

    def bytes_read(self):
        stat = open(f"/sys/block/{pathlib.Path(self.device).name}/stat").read().split()
        return int(stat[2]) * 512

    def forget(self):
        """Empties the page cache of this file system, which nobody uses at this moment."""
        self.unmount()
        sh("mount", "-o", "noatime", self.device, self.mount)

    def unmount(self):
        """A process that has just ended may keep its files for a moment."""
        for _ in range(100):
            try:
                return sh("umount", self.mount)
            except subprocess.CalledProcessError:
                time.sleep(0.1)
        raise RuntimeError(f"{self.mount} stays busy")

    def close(self):
        self.unmount()
        sh("losetup", "-d", self.device)
        self.image.unlink()
        self.mount.rmdir()
        self.image.parent.rmdir()


def row(before, after, commits, payload):
    writes, size, flushes = (b - a for a, b in zip(before, after))
    return {"writes": writes / commits, "flushes": flushes / commits, "amplification": size / payload}


def file_commits(folder):
    loop = Loop(folder)
    try:
        files = [os.open(loop.mount / f"{n}.log", os.O_CREAT | os.O_WRONLY) for n in range(PARTITIONS)]
        os.sync()
        block, before = os.urandom(RECORD), loop.counters()
        for _ in range(COMMITS):
            for f in files:
                os.write(f, block)
                os.fdatasync(f)
        after = loop.counters()
        for f in files:
            os.close(f)
        return row(before, after, COMMITS, COMMITS * PARTITIONS * RECORD)
    finally:
        loop.close()


def weir_commits(folder):
    """Each commit is one Produce request with a 1 KiB record for each of 100 partitions."""
    import produce
    from brokers import Weir
    loop = Loop(folder)
    try:
        broker = Weir(loop.mount / "broker", bytes_max="64MiB")
        try:
            client = produce.Client(broker.kafka, "bench", PARTITIONS, RECORD)
            for _ in range(1000):  # once around, so that every slot was zeroed
                client.commit()
            time.sleep(1)
            before, sent = loop.counters(), 0
            for _ in range(COMMITS // 10):
                sent += client.commit()
            after = loop.counters()
            return row(before, after, COMMITS // 10, sent)
        finally:
            broker.stop()
    finally:
        loop.close()
