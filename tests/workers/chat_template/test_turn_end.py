"""The token that closes an assistant's turn is found in the template, and where it ends none, none is found."""

import pytest

from workers.chat_template.analysis import analyse, from_json, to_json

TOKENS = ("<|im_start|>", "<|im_end|>", "<|response|>", "<|/response|>", "<|end|>", "<|return|>")
LOOP = "{% for m in messages %}BODY{% endfor %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}"
ENDS = {
    TURN + "<|im_end|>\n": ("<|im_end|>",),
    TURN + " <|/response|><|im_end|>\n": ("<|/response|>", "<|im_end|>"),
    TURN + "{{ eos_token }}": (),
    TURN + "\n": (),
    TURN + "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}": (),
    "<|channel|>final" + TURN + "<|end|>": (),
    TURN.replace("{{ m.content", "{{ '<think>' + m.reasoning_content + '<|end|>' if m.reasoning_content }}{{ m.content")
    + "<|end|>": (),
}  # fmt: skip


@pytest.mark.parametrize(("body", "ends"), ENDS.items())
def test_added_tokens_behind_every_answer_end_a_turn(body: str, ends: tuple[str, ...]) -> None:
    analysis = analyse(LOOP.replace("BODY", body), TOKENS)
    assert analysis.turn_ends == ends
    assert from_json(to_json(analysis)) == analysis
