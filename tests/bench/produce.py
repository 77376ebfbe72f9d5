"""One Produce or Fetch request over many partitions, as bytes: of known size, which no client library makes."""
import os
import socket
import struct
import time

TABLE = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(n):
    n, out = n << 1, b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def string(text):
    return struct.pack(">h", len(text)) + text.encode()


def batch(value):
    body = b"\0\0\0" + varint(-1 + 1).replace(b"\0", b"\x01") + varint(len(value)) + value + b"\0"
    record, now = varint(len(body)) + body, int(time.time() * 1000)
    tail = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + record
    return struct.pack(">qiibI", 0, len(tail) + 9, -1, 2, crc32c(tail)) + tail


class Client:
    """A connection that produces to every partition at once; the topic is created first."""

    def __init__(self, port, topic, partitions, record, configs=(), zeros=False):
        self.connect(port)
        self.topic, self.partitions = string(topic), partitions
        create = struct.pack(">i", 1) + self.topic + struct.pack(">ihii", partitions, 1, 0, len(configs))
        create += b"".join(string(key) + string(value) for key, value in configs) + struct.pack(">ib", 10000, 0)
        self.call(19, 2, create)
        # With the headers of batch and record it has `record` bytes.
        one = batch(bytes(record - 72) if zeros else os.urandom(record - 72))
        self.bytes = len(one) * partitions
        parts = b"".join(struct.pack(">ii", p, len(one)) + one for p in range(partitions))
        self.body = struct.pack(">hhii", -1, -1, 10000, 1) + self.topic + struct.pack(">i", partitions) + parts

    def connect(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, api, version, body):
        header = struct.pack(">hhih", api, version, 1, 1) + b"b"
        self.socket.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        size = struct.unpack(">i", self.exactly(4))[0]
        return self.exactly(size)

    def set_config(self, key, value):
        """One config of the topic, with IncrementalAlterConfigs."""
        body = struct.pack(">ib", 1, 2) + self.topic + struct.pack(">i", 1)
        body += string(key) + b"\0" + string(value) + b"\0"
        error = struct.unpack_from(">h", self.call(44, 0, body), 4 + 4 + 4)[0]
        if error:
            raise RuntimeError(f"setting {key}: error {error}")

    def exactly(self, n):
        out = b""
        while len(out) < n:
            piece = self.socket.recv(n - len(out))
            if not piece:
                raise RuntimeError("the broker closed the connection")
            out += piece
        return out

    def read(self, partitions, until):
        """Bytes of record batches in these partitions, from their beginning to that offset."""
        offsets, total = dict.fromkeys(partitions, 0), 0
        while behind := {p: offset for p, offset in offsets.items() if offset < until}:
            for partition, error, size, offset in self.fetch(behind):
                if error:
                    raise RuntimeError(f"fetching partition {partition}: error {error}")
                total += size
                offsets[partition] = max(offset, offsets[partition])
        return total

    def wait_leaders(self, until):
        """Until every partition answers after a restart; reads none."""
        while any(error for _, error, _, _ in self.fetch(dict.fromkeys(range(self.partitions), until), wait_ms=0)):
            time.sleep(0.05)

    def fetch(self, offsets, wait_ms=1000, bytes_max=8 << 20):
        """Partition, error code, bytes and next offset of each."""
        body = struct.pack(">iiiibi", -1, wait_ms, 1, bytes_max, 0, 1) + self.topic + struct.pack(">i", len(offsets))
        body += b"".join(struct.pack(">iqi", p, offset, 1 << 20) for p, offset in offsets.items())
        # Before the partitions: correlation id, throttle time, topics, the topic's name, partitions.
        answer, at = self.call(1, 4, body), 4 + 4 + 4 + len(self.topic) + 4
        for _ in offsets:
            partition, error, aborted = struct.unpack_from(">ih16xi", answer, at)
            at += 26 + 16 * max(aborted, 0)
            size = max(struct.unpack_from(">i", answer, at)[0], 0)
            at, end, offset = at + 4, at + 4 + size, -1
            while end - at >= 61:
                base, length = struct.unpack_from(">qi", answer, at)
                if end - at < 12 + length:
                    break
                offset = base + struct.unpack_from(">i", answer, at + 23)[0] + 1
                at += 12 + length
            at = end
            yield partition, error, size, offset

    def commit(self):
        """Bytes of record batches that were acknowledged together."""
        answer, at = self.call(0, 7, self.body), 4 + 4 + len(self.topic) + 4
        for partition, error in (struct.unpack_from(">ih", answer, at + 30 * n) for n in range(self.partitions)):
            if error:
                raise RuntimeError(f"producing to partition {partition}: error {error}")
        return self.bytes
