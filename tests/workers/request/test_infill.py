"""Fill-in-the-middle: the special tokens of each family, in their order, and the tokens that end an infill."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from shared.errors import UnsupportedParameter
from shared.protocol import (
    FinishReason,
    Generation,
    Prompt,
    Run,
    Sampling,
    Stopping,
    Submit,
    TextPrompt,
    TokenPrompt,
)
from shared.settings import Settings
from tests.jobs import run
from tests.tiny_model import make_tiny_llama
from tests.workers.engines import play
from workers.job import Job, Served
from workers.model.load import inspect, load
from workers.model.serve_model import serve_model
from workers.output.tool_formats import output_format_of
from workers.request.infill import behind, infill_of
from workers.request.prompt import Preparation
from workers.scripted.engine import prepare_scripted

FAMILIES = {
    "qwen": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    "starcoder": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    "deepseek": ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    "codellama": ("▁<PRE>", "▁<SUF>", "▁<MID>"),
}
BEGIN = "<|im_start|>"


def model(folder: Path, *special: str, opens: bool = False) -> Path:
    """A tiny model with these special tokens; ``opens``: its tokenizer adds a BOS token."""
    make_tiny_llama(folder, vocab=300)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if opens:
        begin = (BEGIN, tokenizer.token_to_id(BEGIN))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[begin]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def served(folder: Path) -> Served[Job]:
    return serve_model(
        load(folder, inspect(folder), lambda phase, done, total: None, trusted=True), Settings()
    )


def ask(prompt: Prompt, **sampling: Any) -> Run:
    generation = Generation(
        prompt=prompt, sampling=Sampling(seed=0, **sampling), stopping=Stopping(max_tokens=9)
    )
    return Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", task=generation))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_and_its_suffix_are_put_between_the_familys_special_tokens(
    tmp_path: Path, family: str
) -> None:
    folder = model(tmp_path / "m", *FAMILIES[family])
    ids = served(folder).prepare(ask(TextPrompt(text="def f(", suffix="\n  pass"))).prompt
    prefix, suffix, middle = FAMILIES[family]
    assert load_tokenizer(folder).decode(ids) == f"{prefix}def f({suffix}\n  pass{middle}"
    assert infill_of(load_tokenizer(folder)) is not None


def test_the_bos_token_opens_an_infill_prompt_once(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", *FAMILIES["deepseek"], opens=True)
    prepare, tokenizer = served(folder).prepare, load_tokenizer(folder)
    prefix, suffix, middle = FAMILIES["deepseek"]
    whole = f"{BEGIN}{prefix}ab{suffix}c{middle}"
    assert tokenizer.decode(prepare(ask(TextPrompt(text="ab", suffix="c"))).prompt) == whole
    ids = tokenizer.encode("ab")
    assert tokenizer.decode(prepare(ask(TokenPrompt(ids=ids, suffix="c"))).prompt) == whole
    bare = prepare(ask(TokenPrompt(ids=ids[1:], suffix="c"))).prompt
    assert tokenizer.decode(bare) == whole.removeprefix(BEGIN)


def sentencepiece(folder: Path, prepends: bool) -> Path:
    """Like CodeLlama's: ▁ for spaces, one before each text, and byte tokens for unknown characters."""
    model(folder, *FAMILIES["codellama"])
    tokens = ["<s>", "</s>", "▁", *"abcdef():\n", "ab", "▁a", *(f"<0x{byte:02X}>" for byte in range(256))]
    bpe = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[("a", "b"), ("▁", "a")],
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
    blanks = normalizers.Replace(" ", "▁")
    if prepends:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    special = [AddedToken(token, special=True, normalized=False) for token in FAMILIES["codellama"]]
    tokenizer.add_special_tokens([*special, AddedToken("<|im_end|>", special=True, normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("prepends", [True, False])
def test_a_suffix_gets_no_extra_space_and_a_prompt_keeps_its_space(tmp_path: Path, prepends: bool) -> None:
    tokenizer = load_tokenizer(sentencepiece(tmp_path / "m", prepends))
    encode = partial(tokenizer.encode, add_special_tokens=False)
    for suffix, tokens in {"abc": ["ab", "c"], " abc": ["▁", "ab", "c"], "\n": ["\n"], "": []}.items():
        assert tokenizer.convert_ids_to_tokens(behind(encode, suffix)) == tokens
    prompt = Preparation(tokenizer, 99, 300, None, output_format_of(tokenizer), infill_of(tokenizer))(
        ask(TextPrompt(text="def", suffix="(ab"))
    )
    written = tokenizer.convert_ids_to_tokens(prompt.prompt)
    assert written == ["▁<PRE>", "▁", "d", "e", "f", "▁<SUF>", "(", "ab", "▁<MID>"]


def test_an_infill_ends_with_a_special_token_that_ends_no_other_text(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", *FAMILIES["qwen"], "<|fim_pad|>")
    pad = load_tokenizer(folder).convert_tokens_to_ids("<|fim_pad|>")
    here, reasons = served(folder), []
    for suffix in ("x", None):
        job = here.prepare(ask(TextPrompt(text="a", suffix=suffix), logit_bias={pad: 100.0}))
        (deltas,) = play(here.engine, [job]).values()  # type: ignore[arg-type]
        assert deltas[-1].finish is not None
        reasons.append((deltas[-1].finish.reason, deltas[-1].finish.completion_tokens))
    assert reasons == [(FinishReason.STOP, 1), (FinishReason.LENGTH, 9)]


def test_a_suffix_is_refused_by_name_if_the_tokenizer_has_no_infill_tokens(tmp_path: Path) -> None:
    here = served(model(tmp_path / "m", *FAMILIES["qwen"][:2]))
    assert here.capabilities is not None and not here.capabilities.infill
    for prompt in (TextPrompt(text="a", suffix="b"), TokenPrompt(ids=[5], suffix="b")):
        for prepare in (here.prepare, prepare_scripted):
            with pytest.raises(UnsupportedParameter) as refused:
                prepare(ask(prompt))
            assert refused.value.param == "suffix"
    assert prepare_scripted(run()).prompt


def test_a_model_with_fill_in_the_middle_tokens_reports_the_capability_infill(tmp_path: Path) -> None:
    capabilities = served(model(tmp_path / "m", *FAMILIES["codellama"])).capabilities
    assert capabilities is not None and capabilities.infill
