"""Receives an event stream by one of two libraries, and prints what comes.

Neither library reconnects. A stream that was cut off raises an error; one that was finished ends.
"""
import sys
import time

library, url = sys.argv[1:]


def tell(event):
    if event.event in ("", "message"):
        print("data", event.data, flush=True)
    else:
        print("event", event.event, flush=True)


def by_httpx(headers):
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=httpx.Timeout(10, read=60)) as client:
        with connect_sse(client, "GET", url, headers=headers) as source:
            source.response.raise_for_status()
            yield from source.iter_sse()


def by_requests(headers):
    import requests
    import sseclient

    answer = requests.get(url, stream=True, headers=headers, timeout=60)
    answer.raise_for_status()
    yield from sseclient.SSEClient(answer).events()


receive = {"httpx-sse": by_httpx, "sseclient-py": by_requests}[library]
last = None
while True:
    try:
        for event in receive({"Last-Event-ID": last} if last else {}):
            last = event.id or last
            tell(event)
        break
    except OSError as error:  # requests: all its errors are of this kind
        print("error", type(error).__name__, flush=True)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "httpcore"):
            raise
        print("error", type(error).__name__, flush=True)
    time.sleep(0.5)
print("end", flush=True)
