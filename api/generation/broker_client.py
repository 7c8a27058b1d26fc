"""The api's connection to the broker; the only module of the api that knows ZeroMQ.

Rule 1: a request waits until the broker is seen. It is submitted again on Resubmit, on a Gap, and to a new broker.
Rule 2: the task that called ``generate`` owns the replies: when it ends, its unfinished requests are cancelled.
Rule 3: a request whose client reads too slowly is parked: it is cancelled, and submitted again when there is room.
Rule 4: a large request is encoded off the event loop, which would stop for it.
Rule 5: the socket is edge-triggered: it is read until it is empty, and checked again after each send.

A raw socket with ``add_reader`` costs 5 us a message, ``zmq.asyncio`` costs 24.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import zmq
from pydantic import BaseModel

from api.generation.end_user import current_end_user
from api.generation.received import MAX_REPAIRS, Gap, Received
from api.generation.replies import Replies
from api.http.keys import current_key, prompt_namespace
from api.http.side_thread import in_side_thread
from api.metrics.counters import Counters, Watch
from shared import wire
from shared.errors import (
    BrokerLost,
    CannotBePassedOn,
    FailureFromElsewhere,
    ModelChanged,
    ServingError,
    WorkerLost,
)
from shared.failpoints import failpoint
from shared.protocol import (
    BrokerToApi,
    Cancel,
    ChangesReport,
    Chunks,
    Done,
    Figures,
    Follow,
    ForgetPrompts,
    Generation,
    Operation,
    OperationReply,
    Order,
    OrderReply,
    Ping,
    Pong,
    PromptsForgotten,
    Refused,
    Reload,
    Reloaded,
    Resubmit,
    Start,
    Status,
    StatusReport,
    Submit,
    Task,
    Waiting,
)
from shared.settings import Settings, read_settings
from shared.settings_errors import SettingsError
from shared.sockets import dealer

log = logging.getLogger(__name__)

DRAIN_BUDGET = 256  # messages that are read before the event loop runs other callbacks
LOOK_INTERVAL = 0.2  # seconds between checks of what to acknowledge, park or end
UNREAD_FRAMES = 1000  # beyond them the broker holds what is for this process, within its own bounds
MAX_UNREAD = 2048  # tokens; beyond, the request is parked
LARGE = 64 << 10  # characters or token ids of a prompt
RETRY_AFTER = 5
ORDER_WITHIN = 5.0  # seconds for the answer to an order that does not wait
Answer = StatusReport | OperationReply
Answered = TypeVar("Answered", bound=Answer)
Action = Literal["load", "unload", "reload", "pull", "cancel"]
LINGER = 1000  # milliseconds at most until the last Cancels are sent


class BrokerClient:
    """The serving loop calls ``start`` and ``close``, and every other method runs on that loop."""

    def __init__(self, settings: Settings) -> None:
        self.counters = Counters()
        self._told: dict[str, float] = {}  # the counters' sums that the broker has
        self._settings = settings
        self._registry = settings.registry
        self._use: list[Callable[[Settings], None]] = []
        self._live: dict[str, tuple[Received, Replies]] = {}
        self._parked: set[str] = set()
        self._queries: dict[str, asyncio.Future[Answer]] = {}
        self._encoding: set[asyncio.Task[None]] = set()
        self._epoch: str | None = None
        self._draining = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        name = f"api-{secrets.token_hex(8)}"
        self._socket = dealer(self._context, self._settings.api_socket, name, UNREAD_FRAMES)
        self._seen = asyncio.Event()
        self._heard = self._next_ping = self._next_tick = self._loop.time()
        self._loop.add_reader(self._socket.fileno(), self._drain)
        self._send(Ping())
        self._ticker = self._loop.call_soon(self._tick)

    async def close(self) -> None:
        for _, replies in list(self._live.values()):
            replies.close()
        self._ticker.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close(LINGER)
        self._context.term()

    # ---- what the resources ask

    @property
    def seen(self) -> bool:
        """Whether the broker was heard within ``heartbeat_timeout``."""
        return self._seen.is_set()

    def watch(self, model: str) -> Watch:
        return self.counters.watch(self._registry.resolve(model) or model, self._loop.time())

    async def generate(self, model: str, tasks: Sequence[Task], caller: str) -> Replies:
        """Returns at the first delta, or after ``first_token_silence`` without one. Raises refusals.

        ``model`` may be an alias. All tasks have the same ``n``; choice i of task p is p * n + i in the
        replies. Only requests of the same ``caller`` share a prefix in the cache, unless the operator allows all.
        """
        model = self._registry.resolve(model) or model
        await self._broker_seen()
        key = current_key.get()
        namespace = prompt_namespace(key, caller, shared=self._settings.prompt_cache_shared)
        # With a key of ours the group is the HTTP request, which the key's limits count.
        group = (current_end_user.get() if key is None else "") or secrets.token_hex(8)
        requests = [
            Received(
                secrets.token_hex(16),
                model,
                in_namespace(task, namespace),
                number * task.n,
                caller,
                group,
                key.terms if key else None,
                self.watch(model),
            )
            for number, task in enumerate(tasks)
        ]
        choices = sum(task.n for task in tasks)
        replies = Replies(choices, self._settings.keepalive, lambda: self._cancel(requests))
        owner = asyncio.current_task()
        assert owner is not None
        owner.add_done_callback(lambda _: replies.close())
        for request in requests:
            self._live[request.request_id] = request, replies
            self._submit(request)
            await asyncio.sleep(0)  # the loop runs between the encodings of many prompts
        await replies.first(self._settings.first_token_silence)
        return replies

    def done(self, replies: Replies, start: Start, tokens: int) -> None:
        """The place at a hosted server that ``replies`` has told of is free; what was counted of its answer."""
        for request, own in list(self._live.values()):
            if own is replies:
                del self._live[request.request_id]
                request.count(start, tokens)
                self._send(Done(request_id=request.request_id, spent=request.newly_spent(), tokens=tokens))

    async def status(self, within: float, *, figures: bool = False) -> StatusReport:
        """Raises BrokerLost; at once when no broker is seen. ``figures``: with what all api processes have counted."""
        if figures and self.seen:
            self._tell_figures()
        return await self._ask(Status(query=secrets.token_hex(8), figures=figures), StatusReport, within)

    async def order(self, action: Action, model: str, *, wait: bool, force: bool) -> OrderReply:
        """Raises the broker's refusal; BrokerLost also when another broker comes meanwhile, which knows no orders."""
        await self._broker_seen()
        order = Order(query=secrets.token_hex(8), action=action, model=model, wait=wait, force=force)
        reply = await self._ask(order, OrderReply, None if wait else ORDER_WITHIN)
        if reply.failure:
            raise FailureFromElsewhere(reply.failure)
        return reply

    async def reload(self) -> list[str]:
        """All processes read the settings anew; what has changed, in lines. Raises what is wrong with them."""
        await self._broker_seen()
        reply = await self._ask(Reload(query=secrets.token_hex(8)), Reloaded, ORDER_WITHIN)
        if reply.failure:
            raise FailureFromElsewhere(reply.failure)
        return reply.lines

    async def forget_prompts(self, namespace: str | None) -> PromptsForgotten:
        """When all workers have forgotten. Raises BrokerLost, also when another broker comes meanwhile."""
        await self._broker_seen()
        order = ForgetPrompts(query=secrets.token_hex(8), namespace=namespace)
        return await self._ask(order, PromptsForgotten, None)

    async def changes(self, epoch: str, since: int, within: float) -> ChangesReport:
        """Raises BrokerLost, as ``status`` does."""
        question = Follow(query=secrets.token_hex(8), epoch=epoch, since=since)
        return await self._ask(question, ChangesReport, within)

    def on_new_settings(self, use: Callable[[Settings], None]) -> None:
        self._use.append(use)

    async def _ask(self, question: Operation, kind: type[Answered], within: float | None) -> Answered:
        if not self.seen:
            raise self._lost()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._queries[question.query] = answer
        try:
            self._send(question)
            async with asyncio.timeout(within):
                found = await answer
        except TimeoutError:
            raise self._lost() from None
        finally:
            del self._queries[question.query]
        assert isinstance(found, kind)
        return found

    async def _broker_seen(self) -> None:
        try:
            async with asyncio.timeout(self._settings.broker_timeout):
                await self._seen.wait()
        except TimeoutError:
            raise self._lost() from None

    def _lost(self) -> BrokerLost:
        return BrokerLost(
            "The broker does not answer; it is probably being restarted.", retry_after=RETRY_AFTER
        )

    # ---- what the broker says

    def _drain(self) -> None:
        if self._socket.closed:
            return
        self._draining = True
        try:
            for _ in range(DRAIN_BUDGET):
                self._hear(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            return
        finally:
            self._draining = False
        self._loop.call_soon(self._drain)

    def _hear(self, data: bytes) -> None:
        try:
            message: BrokerToApi = wire.decode(wire.TO_API, data)
        except wire.ProtocolError as error:
            log.error("the broker sent invalid bytes: %s", error)
            return
        self._heard = self._loop.time()
        self._seen.set()
        failpoint("api.heard", message.type)
        match message:
            case Chunks():
                self._take(message)
            case Pong():
                self._pong(message.epoch)
            case Resubmit() | Refused():
                self._end_attempt(message)
            case Waiting():
                self._note_waiting(message)
            case Reloaded():
                self._reread(message)
            case StatusReport() | OrderReply() | ChangesReport() | PromptsForgotten():
                self._answer(message)

    def _note_waiting(self, message: Waiting) -> None:
        for request_id, position in message.positions.items():
            if live := self._live.get(request_id):
                live[1].waiting = in_words(message, position)

    def _reread(self, message: Reloaded) -> None:
        """The broker has new settings: this process reads them too, before it answers whoever asked for it."""
        if message.failure is None:
            try:
                settings = read_settings()
            except SettingsError as error:  # the file was changed again
                log.error("the settings cannot be used and stay as they are: %s", error)
            else:
                self._registry = settings.registry
                for use in self._use:
                    use(settings)
        self._answer(message)

    def _answer(self, message: Answer) -> None:
        if (answer := self._queries.get(message.query)) and not answer.done():
            answer.set_result(message)

    def _end_attempt(self, message: Resubmit | Refused) -> None:
        request, replies = self._live.get(message.request_id, (None, None))
        if request is None or replies is None or request.attempt != message.attempt:
            return
        if isinstance(message, Refused):
            self._end(request, FailureFromElsewhere(message.failure))
        else:
            log.info("request %s goes on elsewhere: %s", message.request_id, message.reason)
            self._note_resume(request, "worker")
            replies.lost.set()
            request.worker_lost(blameless=message.blameless)
            self._submit(request)

    def _take(self, chunks: Chunks) -> None:
        for delta in chunks.deltas:
            live = self._live.get(delta.request_id)
            if live is None:
                continue
            request, replies = live
            try:
                fresh = request.take(delta, chunks.digest)
            except Gap:
                self._repair(request)
                continue
            except ModelChanged as error:
                self._send_cancel(request)
                self._end(request, error)
                continue
            if fresh is None:
                continue
            replies.put(fresh)
            if request.watch:
                request.watch.take(fresh, self._loop.time())
            if request.finished:
                if request.watch:
                    request.watch.end(fresh.finish, self._loop.time())
                del self._live[request.request_id]
                spent = request.newly_spent()
                self._send(Done(request_id=request.request_id, spent=spent, tokens=request.tokens))

    def _park(self, request: Received) -> None:
        log.info("request %s is parked: its client reads too slowly", request.request_id)
        self._send_cancel(request)
        request.pause()
        self._parked.add(request.request_id)

    def _park_and_unpark(self) -> None:
        self._parked &= self._live.keys()
        for request_id, (request, replies) in list(self._live.items()):
            if request_id not in self._parked:
                if replies.unread >= MAX_UNREAD:
                    self._park(request)
            elif replies.unread < MAX_UNREAD // 2:
                self._parked.discard(request_id)
                self._note_resume(request, "slow client")
                self._submit(request)

    def _pong(self, epoch: str) -> None:
        if epoch == self._epoch:
            return
        if self._epoch is not None:
            log.info("a new broker; %d requests are submitted again", len(self._live))
            self._fail_queries()
        again, self._epoch = self._epoch is not None, epoch
        self._told = {}
        for request, _ in list(self._live.values()):
            if request.request_id not in self._parked:
                if again:
                    self._note_resume(request, "broker")
                self._submit(request)

    def _fail_queries(self) -> None:
        for answer in self._queries.values():
            if not answer.done():
                answer.set_exception(self._lost())

    def _note_resume(self, request: Received, cause: str) -> None:
        if request.watch:
            request.watch.resume(cause)

    # ---- what the broker is told

    def _tell_figures(self) -> None:
        """Nothing, if it has them."""
        sums = self.counters.sums()
        if sums == self._told:
            return
        self._told = sums
        try:
            self._send(Figures(sums=sums))
        except CannotBePassedOn as error:  # ten thousand series, of very many keys and models
            log.error("what was counted cannot be passed on: %s", error)

    def _submit(self, request: Received) -> None:
        submit = request.submit()
        if wire.task_size(submit.task) <= LARGE:
            self._send_submit(request, submit, _encoded(submit))
            return
        task = self._loop.create_task(self._encode_in_side_thread(request, submit))
        self._encoding.add(task)
        task.add_done_callback(self._encoding.discard)

    async def _encode_in_side_thread(self, request: Received, submit: Submit) -> None:
        self._send_submit(request, submit, await in_side_thread(_encoded, submit))

    def _send_submit(
        self, request: Received, submit: Submit, encoded: list[bytes] | CannotBePassedOn
    ) -> None:
        """Sends nothing when the request has ended or has a later attempt."""
        live, _ = self._live.get(submit.request_id, (None, None))
        if live is not request or request.attempt != submit.attempt:
            return
        if isinstance(encoded, CannotBePassedOn):
            self._end(request, encoded)
        else:
            self._send_frames(encoded)

    def _repair(self, request: Received) -> None:
        request.repairs += 1
        log.warning("request %s has a gap in attempt %d", request.request_id, request.attempt)
        if request.repairs <= MAX_REPAIRS:
            self._note_resume(request, "gap")
            self._submit(request)
        else:
            self._send_cancel(request)
            self._end(request, WorkerLost("The answer arrived with gaps that could not be repaired."))

    def _ack(self) -> None:
        for request, _ in list(self._live.values()):
            for ack in request.acks():
                self._send(ack)

    def _end(self, request: Received, failure: ServingError) -> None:
        _, replies = self._live.pop(request.request_id)
        replies.fail(failure)

    def _cancel(self, requests: Sequence[Received]) -> None:
        for request in requests:
            if self._live.pop(request.request_id, None) is not None:
                self._send_cancel(request)

    def _send_cancel(self, request: Received) -> None:
        self._send(Cancel(request_id=request.request_id, spent=request.newly_spent()))

    def _send(self, message: BaseModel) -> None:
        self._send_frames([wire.encode(message)])

    def _send_frames(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames, zmq.NOBLOCK)
        if not self._draining and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._loop.call_soon(self._drain)

    # ---- time

    def _tick(self) -> None:
        now, period = self._loop.time(), min(LOOK_INTERVAL, self._settings.heartbeat_interval)
        self._drain()  # what has arrived counts before the silence is measured
        if (slept := now - self._next_tick) > self._settings.heartbeat_interval:
            self._heard += slept  # this process slept, the broker was not silent
        self._next_tick = now + period
        self._ticker = self._loop.call_at(self._next_tick, self._tick)
        if now >= self._next_ping:
            self._next_ping = now + self._settings.heartbeat_interval
            self._send(Ping())
            self._tell_figures()
        self._judge(now - self._heard)
        self._ack()
        self._park_and_unpark()

    def _judge(self, silence: float) -> None:
        if silence > self._settings.heartbeat_timeout:
            self._seen.clear()
        if silence > self._settings.resume_timeout:
            self._fail_queries()
            for request, _ in list(self._live.values()):
                self._end(request, self._lost())


def in_words(waiting: Waiting, position: int) -> str:
    """``queued, 3 of 7 for 'a', loading (weights 40 %)``"""
    progress = (
        f" ({waiting.phase}{f' {waiting.percent} %' if waiting.percent else ''})" if waiting.phase else ""
    )
    pace = f" ({waiting.phase})" if waiting.phase else ""
    state = {
        "loading": f", loading{progress}",
        "downloading": f", downloading, {waiting.percent} %{pace}",
        "queued": ", which waits for memory",
    }.get(waiting.state, "")
    return f"queued, {position} of {waiting.total} for {waiting.model!r}{state}"


def _encoded(submit: Submit) -> list[bytes] | CannotBePassedOn:
    try:
        return wire.frames(submit)
    except CannotBePassedOn as error:
        return error


def in_namespace(task: Task, namespace: str) -> Task:
    """Only a prompt's beginning is shared between requests."""
    return task.model_copy(update={"cache_namespace": namespace}) if isinstance(task, Generation) else task
