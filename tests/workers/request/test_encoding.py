"""Text that is no prompt (a prediction, the end of a thinking) is read as safely as a prompt."""

from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shared.errors import ContextLengthExceeded, InvalidRequest
from shared.protocol import ChatPrompt, Generation, Prompt, Run, Sampling, Submit, TextPrompt
from tests.tiny_model import byte_tokenizer
from workers.output.tool_formats import ModelOutputFormat
from workers.request.encoding import Encoder
from workers.request.prompt import Preparation

CONTEXT = 64
FOREIGN = "<image_soft_token>"  # has an id, and the model no embedding for it


def panicking() -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(byte_tokenizer().to_str())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a|a?)+$"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend)


class Spelling:
    """mlx-lm's wrapper, as far as it is asked here."""

    has_chat_template = True

    def __init__(self, template: str = "<think>") -> None:
        backend = Tokenizer.from_str(byte_tokenizer().to_str())
        backend.add_tokens([AddedToken("<think>", normalized=False)])
        self.ids = backend.get_vocab_size()
        backend.add_tokens([AddedToken(FOREIGN, normalized=False)])
        self.hf = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hf, name)


def prepared(tokenizer: Any, ids: int, prompt: Prompt, prediction: str = "", **options: Any) -> None:
    task = Generation(prompt=prompt, sampling=Sampling(seed=0), prediction=prediction, split_reasoning=True)
    submit = Submit(request_id="r", attempt=1, model="m", task=task)
    Preparation(tokenizer, CONTEXT, ids, **options)(Run(api="a", submit=submit))


def test_a_prediction_at_which_the_tokenizer_panics_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest, match="PanicException") as refused:
        prepared(panicking(), 280, TextPrompt(text="b"), "a" * 60 + "b")
    assert refused.value.param == "prediction"


def test_a_prediction_that_spells_an_id_without_an_embedding_is_refused_by_its_name() -> None:
    tokenizer = Spelling()
    with pytest.raises(InvalidRequest, match=f"0 to {tokenizer.ids - 1}") as refused:
        prepared(tokenizer, tokenizer.ids, TextPrompt(text="b"), f"b{FOREIGN}")
    assert refused.value.param == "prediction"


def test_the_end_of_a_thinking_that_would_be_forced_has_an_embedding() -> None:
    tokenizer = Spelling()
    prompt = ChatPrompt(messages=[{"role": "user", "content": "b"}], template_kwargs={"thinking_budget": 4})
    thinks = ModelOutputFormat(thinking=("<think>", FOREIGN))
    prepared(tokenizer, tokenizer.ids + 1, prompt, output_format=thinks)
    with pytest.raises(InvalidRequest, match=f"0 to {tokenizer.ids - 1}"):
        prepared(tokenizer, tokenizer.ids, prompt, output_format=thinks)


def test_a_chat_longer_than_the_context_can_hold_is_refused_before_its_template_is_rendered() -> None:
    tokenizer = Spelling("{{ 1 // 0 }}")
    for prompt in (
        ChatPrompt(messages=[{"role": "user", "content": "b" * 100_000}]),
        ChatPrompt(messages=[{"role": "user", "content": "b"}], tools=[{"description": "b" * 100_000}]),
    ):
        with pytest.raises(ContextLengthExceeded):
            prepared(tokenizer, tokenizer.ids, prompt)


def test_no_more_of_a_text_is_read_than_the_context_holds() -> None:
    encoder = Encoder(Spelling(), CONTEXT, 1 << 20)
    assert len(encoder.beginning("a b " * 10_000, "prediction")) == CONTEXT
