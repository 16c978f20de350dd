"""Passes the moves of each user on to all who look at the board."""
import json, os, sys
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parent / "../../clients/publish"))
from pushnode_publish import Publisher

url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
r = redis.Redis.from_url(url, decode_responses=True)
publisher = Publisher(r)
stream, group, me = "pn:upstream:board", "board", "worker-1"
try:
    r.xgroup_create(stream, group, id="$", mkstream=True)
except redis.ResponseError:
    pass  # it is there

print("ready", flush=True)
while True:
    for _, entries in r.xreadgroup(group, me, {stream: ">"}, count=100, block=1000) or []:
        newest = {entry["user"]: entry for _, entry in entries}
        for user, entry in newest.items():
            move = json.loads(entry["data"])
            move = {"by": user, "x": float(move["x"]), "y": float(move["y"])}
            # While it waits for a slow client, a newer move of the same user replaces it.
            publisher.push({"topic": "board"}, move, policy=f"latest:{user}", timeout=0.2)
        for id, entry in entries:
            node = entry["from"].rpartition("/")[0]
            reply = {"cmd": "reply", "to": {"fd": entry["from"]}, "ref": json.loads(entry["ref"])}
            r.publish(f"pn:n:{{{node}}}", json.dumps({**reply, "data": None}))
            r.xack(stream, group, id)
