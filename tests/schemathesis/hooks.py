"""What Schemathesis does not know: NDJSON, and answers that do not end: WebSockets, event streams."""

from urllib.parse import unquote

import schemathesis

NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def ndjson(context, value):
    return {"data": value.encode()}


@schemathesis.hook
def filter_case(context, case):
    query = case.query or {}
    # OpenAPI cannot say that one parameter needs another, or a header: that is answered 400.
    if query.get("resume") == "server":
        protocols = str((case.headers or {}).get("Sec-WebSocket-Protocol", "")).split(",")
        is_plain = case.path == "/ws" and "pushnode.v1" not in map(str.strip, protocols)
        if not query.get("device") or is_plain:
            return False
    # What no UTF-8 can hold goes into an address as U+FFFD, which no user id has.
    user = unquote(str((case.path_parameters or {}).get("user", "")))
    if any(letter == "\ufffd" or "\ud800" <= letter <= "\udfff" for letter in user):
        return False
    # Whatever is sent as NDJSON is text: there is no such body of another type.
    return case.media_type != NDJSON or isinstance(case.body, str)


@schemathesis.hook
def before_call(context, case, kwargs):
    def close_endless(response, **_):
        media = response.headers.get("Content-Type")
        if response.status_code == 101 or media == "text/event-stream":
            response.raw.close()

    kwargs["hooks"] = {"response": close_endless}
