"""The worker of the chat: takes what clients say, and keeps it in the log of the topic."""
import json, os, sys
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parent / "../../clients/publish"))
from pushnode_publish import Publisher

url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
r = redis.Redis.from_url(url, decode_responses=True)
publisher = Publisher(r)
stream, group, me = "pn:upstream:chat", "chat", "worker-1"
try:
    r.xgroup_create(stream, group, id="0", mkstream=True)
except redis.ResponseError:
    pass  # it is there


def reply(entry, **what):
    node = entry["from"].rpartition("/")[0]
    to, ref = {"fd": entry["from"], "user": entry["user"]}, json.loads(entry["ref"])
    r.publish(f"pn:n:{{{node}}}", json.dumps({"cmd": "reply", "to": to, "ref": ref, **what}))


def handle(id, entry):
    text = json.loads(entry["data"]).get("text", "").strip()
    if not text:
        return reply(entry, error="say something")
    publisher.keep({"topic": "chat"}, {"by": entry["user"], "text": text}, id=id)
    reply(entry, data=None)


print("ready", flush=True)
while True:
    for _, entries in r.xreadgroup(group, me, {stream: ">"}, count=100, block=1000) or []:
        for id, entry in entries:
            handle(id, entry)
            r.xack(stream, group, id)
