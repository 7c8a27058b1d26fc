"""Checkpoints: the lengths at which prompts of other chats and of next turns part from a prompt."""

from collections.abc import Sequence

from workers.request.checkpoints import LEAST, Messages, checkpoints_of

SYSTEM, QUESTION = "s" * LEAST, "q" * LEAST


def encode(messages: Messages, prompted: str = "") -> list[int]:
    """A template that begins an answer with thinking, and leaves it out of a history."""
    text = "".join(f"<{message['role']}>{message['content']}\n" for message in messages)
    return [ord(each) for each in text + prompted]


def test_a_prompt_has_a_checkpoint_where_the_next_turn_parts_from_it_whatever_the_answer_is() -> None:
    messages: Messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    prompt = encode(messages, "<assistant><think>\n")
    *_, last = checkpoints_of(prompt, messages, encode)
    assert prompt[:last] == encode(messages, "<assistant>")
    turn = [*messages, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"}]
    assert encode(turn, "<assistant><think>\n")[:last] == prompt[:last]


def test_a_prompt_that_the_next_turn_begins_with_needs_no_checkpoint_at_its_end() -> None:
    messages: Messages = [{"role": "user", "content": QUESTION}]
    assert checkpoints_of(encode(messages, "<assistant>"), messages, encode) == []


def test_a_template_that_refuses_the_next_turn_leaves_the_other_checkpoints() -> None:
    messages: Messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]

    def refuses(others: Messages) -> Sequence[int] | None:
        return None if others[-2]["role"] == "assistant" else encode(others)

    prompt = encode(messages, "<assistant><think>\n")
    assert checkpoints_of(prompt, messages, refuses) == [len(encode(messages[:1], "<user>"))]
