#!/usr/bin/env python3
"""Publishes with paho: paho_publish.py PORT VERSION QOS COUNT TOPIC. Exits 0 when all were acknowledged."""
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, version, qos, count, topic = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
v5 = version == "5"
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"paho-{version}-{qos}",
                     protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311, **({} if v5 else {"clean_session": True}))
connected, acked, done = threading.Event(), set(), threading.Event()


def on_publish(c, userdata, mid, reason, properties):
    assert not reason.is_failure, reason
    acked.add(mid)
    if len(acked) == count:
        done.set()


client.on_connect = lambda c, u, flags, reason, p: connected.set()
client.on_publish = on_publish
client.connect("127.0.0.1", port)
client.loop_start()
assert connected.wait(10), "no CONNACK"
properties = None
if v5:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("site", "north"), ("site", "again")]
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = b"\x01\x02"
    properties.MessageExpiryInterval = 600
for i in range(count):
    client.publish(topic, b"%d" % i, qos=qos, properties=properties)
assert done.wait(60), f"{len(acked)} of {count} acknowledged"
client.disconnect()
client.loop_stop()
print("ok")
