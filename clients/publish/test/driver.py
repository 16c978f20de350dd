"""Carries out what stands on each line of its input, and prints the answers: see the test."""

import json
import sys
import time
from pathlib import Path

import redis

sys.path.insert(0, str(Path(__file__).parent.parent))
from pushnode_publish import Publisher  # noqa: E402

publisher = Publisher(redis.Redis(port=int(sys.argv[1])))
for line in sys.stdin:
    method, to, data, options = json.loads(line)
    began = time.monotonic()
    try:
        answer = getattr(publisher, method)(to, data, **options)
    except Exception as error:
        answer = {"error": str(error)}
    print(json.dumps({**answer, "took": time.monotonic() - began}), flush=True)
