"""Loading real folders: tiny models of each kind, quantized weights, progress, and models that do not fit."""

import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.tiny_model import EOS, Kind, make_tiny_model
from tests.workers.model.folders import ABSENT, ROOT, edit_json, silent
from workers.model.load import inspect, load
from workers.model.load_error import LoadError


@pytest.mark.parametrize(
    ("kind", "caches"),
    [
        ("llama", ["KVCache", "KVCache"]),
        ("sliding", ["KVCache", "RotatingKVCache"]),
        ("recurrent", ["ArraysCache", "ArraysCache"]),
    ],
)
def test_each_kind_of_tiny_model_loads(tmp_path: Path, kind: Kind, caches: list[str]) -> None:
    from mlx_lm.models.cache import make_prompt_cache

    folder = make_tiny_model(tmp_path, kind)
    loaded = load(folder, inspect(folder), silent, trusted=True)
    assert [type(cache).__name__ for cache in make_prompt_cache(loaded.model)] == caches
    assert loaded.context_length == 512
    assert loaded.tokenizer.eos_token == EOS
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the réin 日")) == "the réin 日"


@pytest.mark.slow
def test_progress_names_the_phases_and_counts_the_weights(folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    load(folder, inspect(folder), lambda phase, done, total: seen.append((phase, done, total)))
    assert list(dict.fromkeys(phase for phase, _, _ in seen)) == [
        "import",
        "check",
        "tokenizer",
        "weights",
        "warm-up",
    ]
    counted = [done for phase, done, _ in seen if phase == "weights"]
    assert counted == sorted(counted)
    assert [step for step in seen if step[0] == "weights"][-1][1:] == (counted[-1], counted[-1])


def pack(folder: Path) -> None:
    """Quantizes the tiny model in place, 4 bits in groups of 32."""
    import mlx.core as mx

    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    for name in [name for name in weights if name.endswith("proj.weight")]:
        layer = name.removesuffix(".weight")
        packed = mx.quantize(weights[name].astype(mx.float16), group_size=32, bits=4)
        weights |= dict(zip((name, f"{layer}.scales", f"{layer}.biases"), packed, strict=True))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    edit_json(folder / "config.json", quantization={"group_size": 32, "bits": 4})


def test_without_a_gpu_packed_weights_become_float32_exactly(folder: Path) -> None:
    import mlx.core as mx

    pack(folder)
    packed = load(folder, inspect(folder), silent, accelerator=True, trusted=True).model
    unpacked = load(folder, inspect(folder), silent, accelerator=False, trusted=True).model
    layer = packed.model.layers[0].mlp.up_proj
    expected = mx.dequantize(
        layer.weight, layer.scales.astype(mx.float32), layer.biases.astype(mx.float32), 32, 4
    )
    weight = unpacked.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == mx.float32
    assert mx.array_equal(weight, expected).item()


@pytest.mark.parametrize(
    ("configured", "tokenizer_limit", "context_length"),
    [(512, 100, 512), (512, 10**30, 512), (ABSENT, 300, 300), (ABSENT, 10**30, 2048)],
)
def test_the_context_is_the_configs_or_else_the_tokenizers_or_else_the_familys(
    folder: Path, configured: object, tokenizer_limit: int, context_length: int
) -> None:
    edit_json(folder / "config.json", max_position_embeddings=configured)
    edit_json(folder / "tokenizer_config.json", model_max_length=tokenizer_limit)
    assert load(folder, inspect(folder), silent, trusted=True).context_length == context_length


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "nonesuch"},
        {"hidden_size": 64},
        {"hidden_size": "wide"},
        {"hidden_size": ABSENT},
        {"rope_scaling": 3},
        {"vocab_size": 1 << 31 - 1},
        {"num_attention_heads": 0},
        {"rms_norm_eps": "tiny"},
    ],
)
def test_a_model_that_does_not_fit_mlx_lm_is_refused_with_a_sentence(
    folder: Path, changes: dict[str, object]
) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(LoadError, match="does not fit mlx-lm") as caught:
        load(folder, inspect(folder), silent, trusted=True)
    assert caught.value.permanent


@pytest.mark.parametrize(
    "changes",
    [{"max_position_embeddings": None}, {"attention_bias": None}, {"max_position_embeddings": "512"}],
)
def test_a_value_that_only_transformers_minds_does_not_keep_a_model_from_loading(
    folder: Path, changes: dict[str, object]
) -> None:
    edit_json(folder / "config.json", **changes)
    loaded = load(folder, inspect(folder), silent, trusted=True)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the réin 日")) == "the réin 日"


def test_a_tokenizer_whose_class_is_of_a_library_that_is_not_here_is_read_from_its_file(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", tokenizer_class="MistralCommonBackend")
    loaded = load(folder, inspect(folder), silent, trusted=True)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the réin 日")) == "the réin 日"


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ("<|im_end|>", {2}),
        (["<|endoftext|>", 2], {0, 2}),
        ("1", {1, 2}),
        (1.0, {1, 2}),
        ([0, None, "no such token", -1, True], {0, 2}),
        (None, {2}),
        ({}, {2}),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_the_tokens_that_end_an_answer_are_told_by_number_or_by_name(
    folder: Path, file: str, said: object, ends: set[int]
) -> None:
    for name in ("config.json", "generation_config.json"):
        edit_json(folder / name, eos_token_id=said if name == file else ABSENT)
    assert load(folder, inspect(folder), silent, trusted=True).tokenizer.eos_token_ids == ends


def test_the_tokens_that_end_an_answer_may_be_told_in_the_text_part_of_a_config(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=ABSENT)
    edit_json(folder / "config.json", eos_token_id=ABSENT, text_config={"eos_token_id": [0]})
    assert load(folder, inspect(folder), silent, trusted=True).tokenizer.eos_token_ids == {0, 2}


@pytest.mark.slow
def test_loading_a_folder_opens_no_connection(folder: Path) -> None:
    program = """
import pathlib, sys
sys.addaudithook(lambda event, _: print(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
from workers.model.load import inspect, load
folder = pathlib.Path(sys.argv[1])
load(folder, inspect(folder), lambda *progress: None)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("behind", "ends"), [("<|turn_end|>", {0, 2}), ("{{ eos_token }}", {2})])
def test_a_turn_end_that_only_the_template_tells_ends_answers(
    folder: Path, behind: str, ends: set[int]
) -> None:
    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    first = str(tokenizer.id_to_token(0))
    assert {token.content for token in tokenizer.get_added_tokens_decoder().values()} >= {first, EOS}
    turn = "{{ m.role }}\n{{ m.content }}" + behind.replace("<|turn_end|>", first)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}" + turn + "\n{% endfor %}")
    assert load(folder, inspect(folder), silent, trusted=True).tokenizer.eos_token_ids == ends
