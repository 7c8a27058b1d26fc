"""The token with which a template closes an assistant's turn, as ``<|im_end|>`` does.

A model stops by it, also where neither its tokenizer nor its configuration lists it among the ends.
"""

from collections.abc import Collection
from itertools import takewhile

from workers.chat_template.environment import Message, Rendering
from workers.chat_template.probes import TEXT, assistant, user

_CHANNELS = "<|channel|>"  # one turn has several messages here, each with an end of its own


def find_turn_ends(
    rendering: Rendering, added_tokens: Collection[str], thinking_end: str = ""
) -> tuple[str, ...]:
    """The added tokens right behind an answer, alike at the end and in the middle of a conversation.

    Empty where a token closes thinking as well, so that it does not end a turn.
    """
    turn = [user(), assistant()]
    if _CHANNELS in rendering.template:
        return ()
    last, inner = (
        _behind_answer(rendering, messages, added_tokens) for messages in (turn, [*turn, user("z")])
    )
    ends = tuple(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, inner, strict=False)))
    return () if any(end in thinking_end for end in ends) else ends


def _behind_answer(rendering: Rendering, messages: list[Message], added_tokens: Collection[str]) -> list[str]:
    """The added tokens that follow the answer with nothing but blanks between."""
    text = rendering.render(messages)
    rest = text.partition(TEXT)[2].lstrip() if isinstance(text, str) else ""
    found = []
    while token := max(filter(rest.startswith, filter(str.strip, added_tokens)), key=len, default=""):
        found.append(token)
        rest = rest[len(token) :].lstrip()
    return found
