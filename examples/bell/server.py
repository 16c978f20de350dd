"""The backend of the bell, in Python: the page, a token for its user, and a route that rings."""
import json, os, time, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

node = os.environ.get("PUSHNODE", "http://127.0.0.1:8080")
here = Path(__file__).parent


def call(path, body):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(node + path, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))


def token(user):  # your own login says who the user is; here it is the page
    return call("/v1/sessions", {"user": user, "ttl_seconds": 300})["token"]


def ring(user):
    data = {"text": time.strftime("ding at %H:%M:%S")}
    return call("/v1/push", {"to": {"user": user}, "keep": True, "data": data})["status"]


routes = {
    "GET /": ("text/html", lambda _: (here / "index.html").read_text().replace("NODE", node)),
    "GET /push-token": ("text/plain", token),
    "POST /ring": ("text/plain", ring),
}


class Backend(BaseHTTPRequestHandler):
    def answer(self):
        url = urlsplit(self.path)
        kind, body = routes.get(f"{self.command} {url.path}", (None, None))
        text = body(parse_qs(url.query).get("user", [""])[0]).encode() if body else b""
        self.send_response(200 if body else 404)
        self.send_header("content-type", kind or "text/plain")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer


ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", 3000))), Backend).serve_forever()
