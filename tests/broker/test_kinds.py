"""What a model's kind cannot do is refused by name, and a worker never hears of it."""

import pytest

from broker.events import ApiSaid, TellWorker, WorkerSaid
from shared.kinds import Kind
from shared.protocol import (
    Capabilities,
    Embedding,
    Generation,
    Ranking,
    Register,
    Sampling,
    Stopping,
    Submit,
    Task,
    TextPrompt,
)
from shared.wire import header_of
from tests.broker.plays import API, BODY, TOKEN, make_broker, play, reason, refusals

CHAT = Generation(prompt=TextPrompt(text="hi"), sampling=Sampling(seed=1))
READING = CHAT.model_copy(update={"stopping": Stopping(max_tokens=0)})
VECTORS = Embedding(texts=["hi"])
SCORES = Ranking(query="a", documents=["b"])


@pytest.mark.parametrize(
    ("kind", "task", "served"),
    [
        ("chat", CHAT, True),
        ("chat", READING, True),
        ("chat", VECTORS, False),
        ("chat", SCORES, False),
        ("embedding", CHAT, False),
        ("embedding", READING, True),
        ("embedding", VECTORS, True),
        ("embedding", SCORES, True),
        ("rerank", CHAT, False),
        ("rerank", READING, True),
        ("rerank", VECTORS, False),
        ("rerank", SCORES, True),
    ],
)
def test_a_model_is_asked_only_for_what_its_kind_can_do(kind: Kind, task: Task, served: bool) -> None:
    broker = make_broker()
    known = Register(
        token=TOKEN, model="a", pid=7, digest="d", context_length=99, capabilities=Capabilities(kind=kind)
    )
    submit = Submit(request_id="r1", attempt=1, model="a", task=task)
    actions = play(broker, WorkerSaid("a#1", known), ApiSaid(API, header_of(submit), BODY))
    assert bool([action for action in actions if isinstance(action, TellWorker)]) is served
    assert refusals(actions) == ([] if served else [("r1", "model_kind")])


def test_a_refusal_says_what_the_model_is_and_where_to_ask_it() -> None:
    known = Register(
        token=TOKEN,
        model="a",
        pid=7,
        digest="d",
        context_length=99,
        capabilities=Capabilities(kind="embedding"),
    )
    asked = Submit(request_id="r1", attempt=1, model="a", task=CHAT)
    actions = play(make_broker(), WorkerSaid("a#1", known), ApiSaid(API, header_of(asked), BODY))
    assert reason(actions) == (
        "The model 'a' is an embedding model, not a chat model: ask it at /v1/embeddings, or name another model here."
    )
