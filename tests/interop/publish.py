"""Publishes with nothing but redis-py, as docs/redis.md tells, and prints what it hears."""
import json
import sys
from urllib.parse import quote

import redis
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel

_, mode, address, user = sys.argv[1:]
# Of a Redis, of a Sentinel, or of one node of a cluster.
host, port = address.split(":")
if mode == "cluster":
    client = RedisCluster(host=host, port=int(port), decode_responses=True)
elif mode == "sentinel":
    client = Sentinel([(host, int(port))]).master_for("mymaster", decode_responses=True)
else:
    client = redis.Redis(host=host, port=int(port), decode_responses=True)


def send(node, line):
    publish = client.spublish if mode == "cluster" else client.publish
    return publish("pn:n:{%s}" % node, json.dumps(line))


# A channel of our own to hear receipts on.
me = "redis-py.1"
inbox = client.pubsub(ignore_subscribe_messages=True)
if mode == "cluster":
    inbox.ssubscribe("pn:n:{%s}" % me)
    hear = inbox.get_sharded_message
else:
    inbox.subscribe("pn:n:{%s}" % me)
    hear = inbox.get_message
hear(timeout=10)  # subscribed

# To the nodes of the user.
tag = "{%s}" % quote(user, safe=":@")
nodes = {field.rpartition("/")[0] for field in client.hkeys("pn:user:" + tag)}
reply = {"node": me, "ref": "r1"}
for node in nodes:
    send(node, {"to": {"user": user}, "id": "m1", "data": "to the node", "reply": reply})
receipt = None
while receipt is None:
    message = hear(timeout=10)
    # A payload holds several lines; a node's first line is its header.
    for line in map(json.loads, message["data"].splitlines() if message else []):
        if line.get("cmd") == "receipt":
            receipt = line
print("receipt", receipt["status"], receipt["connections"], flush=True)

# To all nodes.
client.publish("pn:g", json.dumps({"to": {"user": user}, "id": "m2", "data": "to all nodes"}))

# Kept in the inbox.
with client.pipeline(transaction=True) as several:
    several.set("pn:pos:" + tag, 206158430208, nx=True)
    several.incr("pn:pos:" + tag)
    entry = {"id": "m3", "data": '"kept"'}
    several.xadd("pn:inbox:" + tag, entry, maxlen=1000, approximate=True)
    several.expire("pn:inbox:" + tag, 86400)
    several.expire("pn:pos:" + tag, 172800)
    several.execute()
client.publish("pn:g", json.dumps({"to": {"user": user}, "keep": True}))
print("done", flush=True)
