"""Which worker of a model a request goes to: where its prompt was read, unless that one is far busier."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import Broker
from broker.events import Action, ApiSaid, TellWorker, WorkerExited, WorkerSaid
from broker.requests.affinity import FAR, LATE, is_far_busier, pick
from broker.requests.scheduler import Limits
from broker.workers.kept_prefixes import KeptPrefixes
from broker.workers.lifecycle import State
from broker.workers.registry import Retained, Worker
from shared.errors import Draining
from shared.generation import ChatPrompt, Generation, Sampling
from shared.prefix_path import POINT, points_of
from shared.protocol import Bye, Failed, ForgetPrompts, PromptsForgotten, RunHeader, Submit
from shared.wire import header_of
from tests.broker.plays import API, BODY, forward, make_broker, play, ready

DRAINS = Draining("I leave").to_failure()
BYE = Bye(reason="exit 0")
ROOMY = Limits(max_in_flight=20, queue_per_model=50, queue_total=50, queue_age=100)


def path(*points: str) -> bytes:
    return b"".join(point.encode().ljust(POINT) for point in points)


def worker(name: str, load: int = 0, *read: bytes, waited: float = 0.0) -> Worker:
    made = Worker(name, "a", True, 0.0, 0.0, 0.0, state=State.READY, engine={"waited": waited})
    made.retained = {str(number): Retained(1, 9.0, ended=False) for number in range(load)}
    for one in read:
        made.kept.note(points_of(one))
    return made


def chosen(*workers: Worker, prompt: bytes = path("a", "b", "c")) -> str:
    return pick(prompt, workers).id


def test_the_worker_that_has_read_most_of_the_prompt_gets_it() -> None:
    some, most, none = worker("some", 0, path("a")), worker("most", FAR, path("a", "b")), worker("none")
    assert chosen(none, some, most) == "most"
    assert chosen(none, some, most, prompt=path("a", "x")) == "some"


def test_what_nobody_or_everybody_has_read_goes_to_the_least_busy() -> None:
    assert chosen(worker("one", 2), worker("other", 1)) == "other"
    assert chosen(worker("one", 2, path("a")), worker("other", 1, path("a"))) == "other"
    assert chosen(worker("one", 2, path("a")), worker("other", 1), prompt=b"") == "other"


def test_a_worker_that_is_far_busier_is_passed_over() -> None:
    assert chosen(worker("kept", FAR, path("a")), worker("idle")) == "kept"
    assert chosen(worker("kept", FAR + 1, path("a")), worker("idle")) == "idle"


def test_a_worker_in_which_prompts_wait_is_passed_over_unless_they_wait_everywhere() -> None:
    waits = worker("kept", 1, path("a"), waited=LATE + 0.1)
    assert chosen(waits, worker("idle")) == "idle"
    assert chosen(waits, worker("idle", waited=LATE + 0.1)) == "kept"


def test_a_worker_remembers_so_many_points_and_forgets_the_least_recently_used() -> None:
    kept = KeptPrefixes(most=3)
    kept.note(points_of(path("a", "b")))
    kept.note(points_of(path("a", "c", "d")))
    assert len(kept) == 3
    assert [kept.depth(points_of(path("a", last))) for last in "bcd"] == [1, 2, 2]


# ---------------------------------------------------------------- in the broker


def said(request_id: str, *contents: str, attempt: int = 1, **more: Any) -> ApiSaid:
    """A turn of a conversation that begins with its name."""
    messages = [{"role": "user", "content": f"{content} " * 80} for content in contents]
    task = Generation(prompt=ChatPrompt(messages=messages), sampling=Sampling(seed=1), **more)
    return ApiSaid(API, header_of(Submit(request_id=request_id, attempt=attempt, model="a", task=task)), BODY)


def ran(actions: list[Action]) -> list[str]:
    return [a.worker for a in actions if isinstance(a, TellWorker) and isinstance(a.message, RunHeader)]


@pytest.fixture
def pair() -> Broker:
    broker = make_broker(limits=ROOMY)
    play(broker, ready("one", "a"), ready("other", "a"))
    return broker


def test_each_turn_of_a_conversation_goes_where_the_turn_before_went(pair: Broker) -> None:
    assert ran(play(pair, said("r1", "A"))) == ["one"]
    assert ran(play(pair, said("r2", "B"))) == ["other"]
    play(pair, forward("one", "r1"), forward("other", "r2"))
    for turn in range(3, 9):
        words = [str(number) for number in range(turn)]
        assert ran(play(pair, said(f"b{turn}", "B", *words))) == ["other"]
        assert ran(play(pair, said(f"a{turn}", "A", *words), forward("one", f"a{turn}"))) in (["one"], [])
        play(pair, forward("other", f"b{turn}"))


def test_requests_of_one_cache_key_go_to_one_worker_though_their_prompts_begin_otherwise(
    pair: Broker,
) -> None:
    play(pair, said("r1", "A"), said("r2", "B", cache_key="k"), forward("other", "r2"), said("r3", "C"))
    play(pair, said("r4", "D"))
    assert ran(play(pair, said("r5", "E", cache_key="k"))) == ["other"]


def test_callers_with_unlike_namespaces_do_not_follow_each_other(pair: Broker) -> None:
    play(pair, said("r1", "A", cache_namespace="anna"))
    assert ran(play(pair, said("r2", "A", cache_namespace="otto"))) == ["other"]
    assert ran(play(pair, said("r3", "A", cache_namespace="anna"))) == ["one"]


def test_a_worker_that_has_forgotten_its_prompts_is_chosen_like_one_that_has_read_none(pair: Broker) -> None:
    play(pair, said("r1", "A"))
    assert ran(play(pair, said("r2", "A", "b"))) == ["one"]
    play(pair, ApiSaid(API, ForgetPrompts(query="q", namespace="key")))
    play(pair, WorkerSaid("one", PromptsForgotten(query="q", memory=1, disk=0)))
    assert ran(play(pair, said("r3", "A", "b", "c"))) == ["other"]


def test_what_was_read_goes_with_its_worker(pair: Broker) -> None:
    play(pair, said("r1", "A"), WorkerSaid("one", Failed(request_id="r1", attempt=1, failure=DRAINS)))
    assert ran(play(pair, said("r1", "A", attempt=2))) == ["other"]
    play(pair, ready("third", "a"), WorkerExited("one", 0))
    assert ran(play(pair, said("r2", "A", "b"))) == ["other"]


def test_a_resumed_request_teaches_a_new_broker_where_its_conversation_is() -> None:
    broker = make_broker(limits=ROOMY)
    play(broker, ready("one", "a"), ready("other", "a", held={"r1": 1}))
    assert ran(play(broker, said("r1", "A", attempt=2))) == ["other"]
    assert ran(play(broker, said("r2", "A", "b"))) == ["other"]


def test_a_request_that_is_kept_elsewhere_waits_for_no_place_while_another_worker_has_one() -> None:
    broker = make_broker(limits=Limits(max_in_flight=1, queue_per_model=9, queue_total=9, queue_age=100))
    play(broker, ready("one", "a"), ready("other", "a"))
    assert ran(play(broker, said("r1", "A"))) == ["one"]
    assert ran(play(broker, said("r2", "A", "b"))) == ["other"]


# ---------------------------------------------------------------- whatever comes


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.sampled_from([0.0, 5.0]), st.lists(st.sampled_from("abcd"), max_size=4)
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.sampled_from("abcd"), max_size=5),
)
def test_no_pick_is_far_busier_than_the_least_busy_or_further_from_the_prompt_than_a_near_one(
    facts: list[tuple[int, float, list[str]]], prompt: list[str]
) -> None:
    workers = [
        worker(str(number), load, path(*read), waited=waited)
        for number, (load, waited, read) in enumerate(facts)
    ]
    picked, least = pick(path(*prompt), workers), min(workers, key=lambda one: one.load)
    assert picked.load <= least.load + FAR
    assert not (picked.waited > LATE >= least.waited)
    points = points_of(path(*prompt))
    for other in workers:
        if not is_far_busier(other, least) and prompt:
            assert other.kept.depth(points) <= picked.kept.depth(points)


@dataclass
class Crowd:
    """Conversations on a broker whose workers come, drain and go; what each was sent is checked as it is sent."""

    rng: Random
    broker: Broker = field(default_factory=lambda: make_broker(limits=ROOMY))
    running: dict[str, dict[str, int]] = field(default_factory=dict)  # by worker that is ready: its requests
    turns: dict[str, int] = field(default_factory=dict)
    asked: int = 0

    def come(self) -> None:
        name = f"w{len(self.running)}-{self.asked}"
        self.running[name] = {}
        self.hear(play(self.broker, ready(name, "a")))

    def drain(self) -> None:
        """It says that it leaves, at its next run."""
        if len(self.running) > 1:
            name = self.rng.choice(list(self.running))
            lost = self.running.pop(name)
            self.hear(play(self.broker, WorkerExited(name, 0), WorkerSaid(name, BYE)))
            for request in lost:
                self.submit(request, 2)

    def ask(self) -> None:
        talk = self.rng.choice("ABCDEF")
        self.turns[talk] = self.turns.get(talk, 0) + 1
        self.asked += 1
        self.submit(f"{talk}{self.asked}", 1)

    def submit(self, request: str, attempt: int) -> None:
        words = [str(number) for number in range(self.turns[request[0]])]
        self.hear(play(self.broker, said(request, request[0], *words, attempt=attempt)))

    def end(self) -> None:
        busy = [name for name, runs in self.running.items() if runs]
        if busy:
            name = self.rng.choice(busy)
            request, attempt = self.running[name].popitem()
            self.hear(play(self.broker, forward(name, request, attempt=attempt)))

    def hear(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, TellWorker) and isinstance(action.message, RunHeader):
                assert action.worker in self.running, "sent to a worker that is not ready"
                least = min(map(len, self.running.values()))
                assert len(self.running[action.worker]) <= least + FAR, "sent to one that is far busier"
                submit = action.message.submit
                self.running[action.worker][submit.request_id] = submit.attempt


@pytest.mark.parametrize("seed", range(20))
def test_conversations_are_sent_to_ready_workers_only_and_none_is_overloaded(seed: int) -> None:
    crowd = Crowd(Random(seed))
    crowd.come()
    crowd.come()
    for _ in range(150):
        getattr(crowd, crowd.rng.choice(["ask"] * 6 + ["end"] * 5 + ["come", "drain"]))()
    assert crowd.asked > 30
