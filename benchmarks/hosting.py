"""``python -m benchmarks.hosting``: what the way through this server costs an answer of a hosted one.

200 streams of a scripted server, asked directly and through the api, one and eight at a time: the time to the first
event, the time of the whole stream, and the processor time of the api for each event.
"""

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from tests.cli.command import ROOT
from tests.faults.stack import FaultStack, fault_stack
from tests.faults.test_hosting import chat, servers, serving

STREAMS = 200
STEP = 0.002  # seconds between two events
PROGRAM = str(ROOT / "tests" / "programs" / "hosted_server.py")
SERVE = [sys.executable, PROGRAM, "--port", "{port}", "--step", str(STEP)]


def main() -> int:
    with fault_stack(**serving({"good": {"serve": SERVE, "concurrency": 64}})) as stack:
        stream(stack.port)
        [at] = [int(p.cmdline()[3]) for p in servers("good", SERVE[4:])]
        for clients in (1, 8):
            for way, port in (("directly", at), ("through the api", stack.port)):
                tell(f"{clients} at a time, {way}", stack, port, clients)
    return 0


def tell(what: str, stack: FaultStack, port: int, clients: int) -> None:
    before = sum(stack.program("api").cpu_times()[:2])
    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(lambda _: stream(port), range(STREAMS)))
    spent = sum(stack.program("api").cpu_times()[:2]) - before
    first, whole, events = (sorted(column) for column in zip(*found, strict=True))
    print(
        f"{what:32}  first event {1000 * median(first):6.2f} ms (p99 {1000 * first[int(0.99 * STREAMS)]:6.2f}), "
        f"whole {1000 * median(whole):6.1f} ms, api {1e6 * spent / sum(events):5.0f} us of processor an event"
    )


def stream(port: int) -> tuple[float, float, int]:
    """Seconds to the first event, seconds of all, and how many there were."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.monotonic()
    connection.request(
        "POST",
        "/v1/chat/completions",
        json.dumps(chat("good", stream=True)),
        {"content-type": "application/json"},
    )
    answer, first, events = connection.getresponse(), 0.0, 0
    while line := answer.readline():
        if line.startswith(b"data:"):
            first = first or time.monotonic() - began
            events += 1
    connection.close()
    return first, time.monotonic() - began, events


if __name__ == "__main__":
    raise SystemExit(main())
