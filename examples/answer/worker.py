"""Answers questions token by token. Each token is kept in the log of the answer's topic."""
import itertools, json, os, secrets, sys, threading, time
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parent / "../../clients/publish"))
from pushnode_publish import Publisher

url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
r = redis.Redis.from_url(url, decode_responses=True)
publisher = Publisher(r)
stream, group, me = "pn:upstream:ai", "ai", "worker-1"
stops: dict[str, tuple[str, threading.Event]] = {}  # by answer: who asked, and whether to stop
try:
    r.xgroup_create(stream, group, id="0", mkstream=True)
except redis.ResponseError:
    pass  # it is there


def model(question):
    """A real one streams its tokens in the same way."""
    words = f"You asked: {question} Light is scattered, blue light most of all.".split()
    for number, word in zip(itertools.count(1), itertools.cycle(words)):
        time.sleep(0.02)
        yield f"{word}({number}) "


def write(answer, question, stop):
    topic = {"topic": f"answer.{answer}"}
    for token in itertools.islice(model(question), 900):  # below PUSH_KEEP_MESSAGES
        if stop.is_set():
            publisher.keep(topic, "stopped", event="end")
            break
        publisher.keep(topic, token, event="token")
    else:
        publisher.keep(topic, "done", event="end")
    del stops[answer]


def handle(entry):
    data = json.loads(entry["data"])
    if entry["route"] == "ai.ask":
        answer, stop = secrets.token_hex(8), threading.Event()
        stops[answer] = entry["user"], stop
        threading.Thread(target=write, args=(answer, data["question"], stop), daemon=True).start()
        return answer
    user, stop = stops.get(data["answer"], (None, None))
    if user == entry["user"]:  # only who asked may stop it, from any device
        stop.set()
    return user == entry["user"]


print("ready", flush=True)
while True:
    for _, entries in r.xreadgroup(group, me, {stream: ">"}, count=100, block=1000) or []:
        for id, entry in entries:
            node = entry["from"].rpartition("/")[0]
            to, ref = {"fd": entry["from"], "user": entry["user"]}, json.loads(entry["ref"])
            reply = {"cmd": "reply", "to": to, "ref": ref, "data": handle(entry)}
            r.publish(f"pn:n:{{{node}}}", json.dumps(reply))
            r.xack(stream, group, id)
