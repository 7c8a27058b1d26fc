"""A worker without a model: says two deltas to each Run. For the broker's tests, and bad on demand.

python -m tests.programs.minimal_worker --model ID --id NAME [--die-after N] [--exit-on-start CODE] …
"""

import argparse
import os
import signal
import sys
import time

import zmq
from pydantic import BaseModel

from shared.protocol import (
    Bye,
    Cancel,
    Chunks,
    Delta,
    Drain,
    Finish,
    FinishReason,
    Forward,
    Goodbye,
    Heartbeat,
    Loading,
    Pong,
    Register,
    RunHeader,
    Start,
)
from shared.settings import Settings, load_settings
from shared.wire import TO_WORKER, decode, encode

EX_GOODBYE = 3
_LIFETIME = 60  # seconds: none is left behind, whatever happens to its broker and its test


class MinimalWorker:
    def __init__(self, options: argparse.Namespace, settings: Settings) -> None:
        self.options = options
        self.beat_every = settings.heartbeat_interval
        self.token = settings.token_file.read_text().strip()
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.set(zmq.ROUTING_ID, options.id.encode())
        self.socket.set(zmq.LINGER, 200)
        self.socket.connect(f"ipc://{settings.worker_socket}")
        self.epoch = ""
        self.runs = 0
        self.draining = False
        self.next_beat = 0.0

    def say(self, message: BaseModel, *body: bytes) -> None:
        self.socket.send_multipart([encode(message), *body])

    def serve(self) -> int:
        self.say(Loading(token=self.token, model=self.options.model, pid=os.getpid()))
        if self.options.never_ready:
            return self.sleep()
        self.register()
        while not self.draining:
            if time.monotonic() >= self.next_beat:
                self.say(Heartbeat(epoch=self.epoch, step=self.runs, active=0))
                self.next_beat = time.monotonic() + self.beat_every
            if self.socket.poll(int(self.beat_every * 500)):
                self.obey(decode(TO_WORKER, self.socket.recv_multipart()[0]))
            if self.options.silent and self.runs:
                return self.sleep()
        self.say(Bye(reason="drained"))
        self.socket.close()
        return 0

    def register(self) -> None:
        self.say(
            Register(
                token=self.token, model=self.options.model, pid=os.getpid(), digest="d", context_length=4096
            )
        )

    def obey(self, message: BaseModel) -> None:
        match message:
            case Pong(epoch=epoch) if self.epoch and epoch != self.epoch:
                self.epoch = epoch
                self.register()
            case Pong(epoch=epoch):
                self.epoch = epoch
            case Drain():
                self.draining = not self.options.stubborn
            case Goodbye():
                sys.exit(EX_GOODBYE)
            case RunHeader():
                self.run(message)
            case Cancel():
                pass  # whatever was asked has been answered by now

    def run(self, run: RunHeader) -> None:
        self.runs += 1
        if self.options.die_after is not None and self.runs > self.options.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.silent:
            return
        submit = run.submit
        first = Delta(
            request_id=submit.request_id,
            attempt=submit.attempt,
            index=0,
            ids=[1],
            text="Hello",
            start=Start(prompt_tokens=1),
        )
        last = Delta(
            request_id=submit.request_id,
            attempt=submit.attempt,
            index=1,
            ids=[2],
            text=" world",
            finish=Finish(reason=FinishReason.STOP, completion_tokens=2),
        )
        self.say(Forward(api=run.api), encode(Chunks(deltas=[first])))
        ended = Forward(api=run.api, ended={submit.request_id: submit.attempt})
        self.say(ended, encode(Chunks(deltas=[last])))

    def drain(self, *_: object) -> None:
        self.draining = True

    def sleep(self) -> int:
        """Deaf and mute, but there."""
        while True:
            signal.pause()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--die-after", type=int, help="runs it answers before it kills itself")
    parser.add_argument("--exit-on-start", type=int, help="exit code, before a word is said")
    parser.add_argument("--never-ready", action="store_true", help="says that it loads, then nothing")
    parser.add_argument("--silent", action="store_true", help="deaf and mute from the first Run on")
    parser.add_argument("--stubborn", action="store_true", help="ignores SIGTERM and Drain")
    options = parser.parse_args()
    if options.exit_on_start is not None:
        return int(options.exit_on_start)
    signal.alarm(_LIFETIME)
    worker = MinimalWorker(options, load_settings())
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.stubborn else worker.drain)
    return worker.serve()


if __name__ == "__main__":
    sys.exit(main())
