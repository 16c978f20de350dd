"""The backend of the AI answer: the page, and what it asks by `send`. Each token is pushed to the
answer's topic, whose rule keeps it. No packages."""
import hashlib, hmac, http.client, itertools, json, os, secrets, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

node = os.environ.get("PUSHNODE", "http://127.0.0.1:8080")
page = (Path(__file__).parent / "index.html").read_text().replace("NODE", node)
secret = os.environ["PUSH_HOOK_SECRET"].encode()
length = int(os.environ.get("TOKENS", 4999))  # and an end: the rule keeps 5,000 messages
stops: dict[str, threading.Event] = {}  # by topic


def model(question):
    """A real one streams its tokens in the same way."""
    words = f"You asked: {question} Light is scattered, blue light most of all.".split()
    began = time.monotonic()
    for number, word in zip(range(1, length + 1), itertools.cycle(words)):
        time.sleep(max(0, began + number / 200 - time.monotonic()))  # 200 a second
        yield f"{word}({number}) "


def write(topic, question):
    to_node = http.client.HTTPConnection(urlsplit(node).netloc)

    def push(event, number, data):
        # Repeated with the same id, it is kept once.
        body = {"to": {"topic": topic}, "event": event, "id": f"{topic}-{number}", "data": data}
        to_node.request("POST", "/v1/push", json.dumps(body), {"content-type": "application/json"})
        to_node.getresponse().read()

    number, end = 0, "done"
    for number, token in enumerate(model(question), 1):
        if stops[topic].is_set():
            end = "stopped"
            break
        push("token", number, token)
    push("end", number + 1, end)
    del stops[topic]


def answer(ask):
    if ask["route"] == "ai.ask":
        topic = f"ai.{ask['user']}.{secrets.token_hex(8)}"
        stops[topic] = threading.Event()
        question = ask["data"]["question"]
        threading.Thread(target=write, args=(topic, question), daemon=True).start()
        return topic
    topic = ask["data"]["topic"]
    if topic in stops and topic.startswith(f"ai.{ask['user']}."):  # from any device of the user
        stops[topic].set()
    return None


def is_signed(header, body):
    at, _, signature = header.removeprefix("t=").partition(",v1=")
    right = hmac.new(secret, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature, right) and abs(time.time() - int(at)) < 300


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply(200, "text/html", page.encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if not is_signed(self.headers.get("pushnode-signature", ""), body):
            return self.reply(400, "application/json", b"{}")
        self.reply(200, "application/json", json.dumps(answer(json.loads(body))).encode())

    def reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Backend).serve_forever()
