"""How callers share a model's queue and its workers: in turns, and none of them fills what others may need."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import Broker
from broker.events import Action, TellWorker
from broker.requests.caller_share import may_hold_more
from broker.requests.scheduler import Limits
from shared.callers import Asker
from shared.protocol import RunHeader
from tests.broker.plays import ask, forward, make_broker, play, ready, refusals

WORKER = "a#1"


def broker_of(places: int, queue: int = 1000) -> Broker:
    return make_broker(limits=Limits(max_in_flight=places, queue_per_model=queue, queue_total=queue))


def dispatched(actions: list[Action]) -> list[str]:
    return [
        action.message.submit.request_id
        for action in actions
        if isinstance(action, TellWorker) and isinstance(action.message, RunHeader)
    ]


def submit_all(broker: Broker, caller: str, group: str, count: int) -> list[str]:
    """Their ids; dispatched at once are those that have a place."""
    ids = [f"{caller}-{group}-{number}" for number in range(count)]
    return [
        id
        for request_id in ids
        for id in dispatched(play(broker, ask(request_id, caller=caller, group=group)))
    ]


def test_a_callers_single_request_runs_at_once_beside_300_prompts_of_another_caller() -> None:
    broker = broker_of(places=256)
    play(broker, ready("static", "a"))
    begun = submit_all(broker, "greedy", "list", 300)
    assert len(begun) == 224
    assert dispatched(play(broker, ask("one", caller="modest"))) == ["one"]


def test_a_callers_single_request_is_next_when_300_prompts_of_another_caller_wait_for_a_load() -> None:
    broker = broker_of(places=1)
    submit_all(broker, "greedy", "list", 300)
    play(broker, ask("one", caller="modest"))
    assert dispatched(play(broker, ready(WORKER))) == ["greedy-list-0"]
    assert dispatched(play(broker, forward(WORKER, "greedy-list-0"))) == ["one"]
    assert dispatched(play(broker, forward(WORKER, "one"))) == ["greedy-list-1"]


def test_callers_take_turns_and_so_do_the_groups_of_one_caller() -> None:
    broker = broker_of(places=1)
    for caller, group in (("a", "x"), ("a", "y"), ("b", "x")):
        submit_all(broker, caller, group, 2)
    order = dispatched(play(broker, ready(WORKER)))
    while running := order[-1:]:
        ended = dispatched(play(broker, forward(WORKER, *running)))
        if not ended:
            break
        order += ended
    assert order == ["a-x-0", "b-x-0", "a-y-0", "b-x-1", "a-x-1", "a-y-1"]


def test_requests_without_a_key_that_came_with_one_http_request_are_one_caller() -> None:
    broker = broker_of(places=1)
    submit_all(broker, "", "list", 5)
    submit_all(broker, "", "alone", 1)
    assert dispatched(play(broker, ready(WORKER))) == ["-list-0"]
    assert dispatched(play(broker, forward(WORKER, "-list-0"))) == ["-alone-0"]


@pytest.mark.parametrize("places", [2, 3, 8, 9, 256])
def test_one_caller_never_fills_a_worker(places: int) -> None:
    broker = broker_of(places)
    play(broker, ready("static", "a"))
    assert len(submit_all(broker, "greedy", "list", 300)) < places
    assert dispatched(play(broker, ask("late", caller="modest"))) == ["late"]


def test_a_worker_with_one_place_is_used_by_one_caller() -> None:
    broker = broker_of(places=1)
    play(broker, ready("static", "a"))
    assert submit_all(broker, "only", "list", 2) == ["only-list-0"]


def test_many_callers_fill_a_worker_to_its_last_place() -> None:
    broker = broker_of(places=16)
    play(broker, ready("static", "a"))
    assert sum(len(submit_all(broker, f"caller{number}", "", 1)) for number in range(20)) == 16


def test_one_caller_never_fills_the_queue() -> None:
    broker = broker_of(places=1, queue=64)
    refused = [
        id
        for number in range(100)
        for id, _ in refusals(play(broker, ask(f"r{number}", caller="greedy", group=f"g{number}")))
    ]
    assert len(refused) == 100 - 56
    assert refusals(play(broker, ask("one", caller="modest"))) == []


def test_one_caller_never_fills_the_queues_of_all_models() -> None:
    models = [f"m{number}" for number in range(10)]
    broker = make_broker(models, Limits(queue_per_model=8, queue_total=16))
    for model in models:
        for number in range(8):
            play(broker, ask(f"{model}-{number}", model=model, caller="greedy"))
    assert refusals(play(broker, ask("one", model="m9", caller="modest"))) == []


def test_a_caller_at_its_limit_holds_up_no_other_caller() -> None:
    broker = broker_of(places=8)
    play(broker, ready("static", "a"))
    submit_all(broker, "greedy", "list", 20)
    assert dispatched(play(broker, ask("one", caller="modest"))) == ["one"]
    assert dispatched(play(broker, forward("static", "one"))) == []


def test_requests_that_resume_take_turns_too() -> None:
    broker = broker_of(places=1)
    for number in range(3):
        play(broker, ask(f"greedy{number}", attempt=2, caller="greedy"))
    play(broker, ask("modest", attempt=2, caller="modest"), ask("fresh", caller="third"))
    order = dispatched(play(broker, ready(WORKER)))
    for _ in range(4):
        attempt = 1 if order[-1] == "fresh" else 2
        order += dispatched(play(broker, forward(WORKER, order[-1], attempt=attempt)))
    assert order == ["greedy0", "modest", "greedy1", "greedy2", "fresh"]


# ---------------------------------------------------------------- whatever comes


@dataclass
class Watch:
    """Checks each dispatch against what waited for it."""

    waiting: dict[Asker, list[str]] = field(default_factory=lambda: defaultdict(list))
    running: list[tuple[str, Asker]] = field(default_factory=list)
    passed_over: Counter[tuple[str, str]] = field(default_factory=Counter)

    def dispatch(self, request_id: str, askers: dict[str, Asker]) -> None:
        asker = askers[request_id]
        assert self.waiting[asker].pop(0) == request_id, "a group's requests changed their order"
        self.running.append((request_id, asker))

    def free_for(self, caller: str, places: int) -> bool:
        held = sum(asker.caller == caller for _, asker in self.running)
        return may_hold_more(held, places - len(self.running), places)


CALLERS = st.builds(Asker, st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"]))
STEPS = st.lists(st.one_of(CALLERS, st.integers(0, 50)), max_size=120)


@given(places=st.integers(1, 9), steps=STEPS)
def test_whatever_comes_every_request_runs_groups_keep_their_order_and_no_place_stays_empty(
    places: int, steps: list[Asker | int]
) -> None:
    broker, watch, askers = broker_of(places), Watch(), dict[str, Asker]()
    play(broker, ready("static", "a"))

    def see(actions: list[Action]) -> None:
        for request_id in dispatched(actions):
            watch.dispatch(request_id, askers)
        callers = {asker.caller for asker, ids in watch.waiting.items() if ids}
        assert not any(watch.free_for(caller, places) for caller in callers), "a place stayed empty"

    def end(which: int) -> None:
        request_id, _ = watch.running.pop(which % len(watch.running))
        see(play(broker, forward("static", request_id)))

    for number, step in enumerate(steps):
        if isinstance(step, Asker):
            request_id = f"r{number}"
            askers[request_id] = step
            watch.waiting[step].append(request_id)
            see(play(broker, ask(request_id, caller=step.caller, group=step.group)))
        elif watch.running:
            end(step)
    while watch.running:
        end(0)
    assert not any(watch.waiting.values()), "a request never ran"
