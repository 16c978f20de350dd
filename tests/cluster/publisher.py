"""Publishes to pushnode with nothing but redis-py.

    publisher.py <redis port> <user> <data as JSON>

Looks the user's nodes up, publishes to each, and waits for a receipt on a channel of its own.
Prints the receipt.
"""

import json
import sys

import redis

port, user, data = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
client = redis.Redis(port=port, decode_responses=True)

# A channel of our own to hear receipts on: <name>.<boot> like a node's, but nobody's.
me = "python-publisher.1"
inbox = client.pubsub(ignore_subscribe_messages=True)
inbox.subscribe("pn:n:{%s}" % me)
inbox.get_message(timeout=10)  # subscribed

nodes = {field.rpartition("/")[0] for field in client.hkeys("pn:user:{%s}" % user)}
assert nodes, "the user is offline"
push = {"to": {"user": user}, "data": data, "reply": {"node": me, "ref": "r1"}}
for node in nodes:
    listeners = client.publish("pn:n:{%s}" % node, json.dumps(push))
    assert listeners == 1, f"{listeners} listeners on the channel of {node}"

# To all nodes at once, without a look-up: to one user, then to everybody.
client.publish("pn:g", json.dumps({"to": {"user": user}, "data": [data, "by pn:g"]}))
client.publish("pn:g", json.dumps({"to": {"all": True}, "data": [data, "to all"]}))

# A payload holds several lines; a node's first line is its header.
message = None
while message is None:
    message = inbox.get_message(timeout=10)
for line in map(json.loads, message["data"].splitlines()):
    if line.get("cmd") == "receipt":
        print(json.dumps(line))
