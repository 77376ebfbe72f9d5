"""One Produce request over many partitions, as bytes: a commit of known size, which no client library makes."""
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


def batch(value):
    body = b"\0\0\0" + varint(-1 + 1).replace(b"\0", b"\x01") + varint(len(value)) + value + b"\0"
    record, now = varint(len(body)) + body, int(time.time() * 1000)
    tail = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + record
    return struct.pack(">qiibI", 0, len(tail) + 9, -1, 2, crc32c(tail)) + tail


class Client:
    """A connection that produces to every partition at once; the topic is created first."""

    def __init__(self, port, topic, partitions, record):
        self.socket = socket.create_connection(("127.0.0.1", port))
        name = topic.encode()
        create = struct.pack(">ih", 1, len(name)) + name + struct.pack(">ihiiib", partitions, 1, 0, 0, 10000, 0)
        self.call(19, 2, create)
        one = batch(os.urandom(record - 72))  # with header and framing of the record about 1 KiB
        self.bytes = len(one) * partitions
        parts = b"".join(struct.pack(">ii", p, len(one)) + one for p in range(partitions))
        self.body = struct.pack(">hhiih", -1, -1, 10000, 1, len(name)) + name + struct.pack(">i", partitions) + parts

    def call(self, api, version, body):
        header = struct.pack(">hhih", api, version, 1, 1) + b"b"
        self.socket.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        size = struct.unpack(">i", self.exactly(4))[0]
        return self.exactly(size)

    def exactly(self, n):
        out = b""
        while len(out) < n:
            piece = self.socket.recv(n - len(out))
            if not piece:
                raise RuntimeError("the broker closed the connection")
            out += piece
        return out

    def commit(self):
        """Bytes of record batches that were acknowledged together."""
        self.call(0, 7, self.body)
        return self.bytes
