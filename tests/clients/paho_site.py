#!/usr/bin/env python3
"""A device of a site with a ledger: paho_site.py HOST:PORT,... TOPIC PER_SECOND. Publishes numbers with QoS 1 until
its input is closed; when its gateway is lost it goes on at another, and sends again what nobody has confirmed."""
import os
import queue
import sys
import threading
import time

import paho.mqtt.client as mqtt

gateways = [g.rsplit(":", 1) for g in sys.argv[1].split(",")]
topic, rate = sys.argv[2], int(sys.argv[3])
ended = threading.Event()
unconfirmed, number = set(), 0


def say(*words):
    os.write(1, (" ".join(str(w) for w in words) + "\n").encode())


def session(host, port):
    """One connection: until it is lost, or silent for 5 s with something unconfirmed, or all is over."""
    global number
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="device", clean_session=True)
    up, down, confirmed, sent = threading.Event(), threading.Event(), queue.SimpleQueue(), {}
    client.on_connect = lambda c, u, f, reason, p: down.set() if reason.is_failure else up.set()
    client.on_disconnect = lambda *a: down.set()
    client.on_publish = lambda c, u, mid, reason, p: confirmed.put(mid)
    client.connect_timeout = 3

    def publish(n):
        sent[client.publish(topic, f"device:{n}", qos=1).mid] = n

    say("tries", f"{host}:{port}")
    client.connect(host, int(port), keepalive=5)
    client.loop_start()
    try:
        if not up.wait(3):
            return
        say("connected", len(unconfirmed))
        for n in sorted(unconfirmed):
            publish(n)
        begin, first, heard = time.time(), number, time.time()
        while not down.is_set() and not (ended.is_set() and not unconfirmed):
            while not confirmed.empty():
                n, heard = sent.pop(confirmed.get()), time.time()
                unconfirmed.remove(n)
                say("acked", n)
            if not unconfirmed:
                heard = time.time()
            if time.time() - heard > 5:
                say("silent")
                return
            if ended.is_set() or number - first > (time.time() - begin) * rate:
                time.sleep(0.01)
                continue
            unconfirmed.add(number)
            publish(number)
            number += 1
    finally:
        client.disconnect()
        client.loop_stop()


threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
at = 0
while not ended.is_set() or unconfirmed:
    try:
        session(*gateways[at % len(gateways)])
    except OSError as e:
        say("lost", e)
    at += 1
    time.sleep(0.2)
