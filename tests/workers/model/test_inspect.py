"""Inspecting folders: facts, digests, and refusals of damaged or malicious ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_model import make_tiny_llama
from tests.workers.model.folders import ROOT, edit_json, refusal, silent
from workers.model.load import inspect, load
from workers.model.load_error import LoadError


def test_inspecting_imports_no_mlx(folder: Path) -> None:
    program = (
        "import sys, pathlib; from workers.model.load import inspect; inspect(pathlib.Path(sys.argv[1]));"
        "print([name for name in sys.modules if name.startswith('mlx')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_inspect_gives_the_models_facts_without_loading(folder: Path) -> None:
    facts = inspect(folder)
    assert (facts.context_length, facts.model_type) == (512, "llama")


def test_equal_models_have_equal_digests(folder: Path, tmp_path: Path) -> None:
    assert inspect(make_tiny_llama(tmp_path / "again")).digest == inspect(folder).digest


def test_two_fine_tunes_of_a_model_have_different_digests(folder: Path, tmp_path: Path) -> None:
    assert inspect(make_tiny_llama(tmp_path / "other", seed=1)).digest != inspect(folder).digest


def test_a_change_of_the_config_changes_the_digest(folder: Path) -> None:
    before = inspect(folder).digest
    edit_json(folder / "config.json", rope_theta=5.0)
    assert inspect(folder).digest != before


def test_the_context_length_is_in_the_config(folder: Path) -> None:
    edit_json(folder / "config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert inspect(folder).context_length == 2048


def test_a_change_of_tokenizer_or_default_sampling_changes_the_digest(folder: Path) -> None:
    before = inspect(folder).digest
    edit_json(folder / "generation_config.json", temperature=0.5)
    between = inspect(folder).digest
    edit_json(folder / "tokenizer_config.json", chat_template="{{ messages }}")
    assert len({before, between, inspect(folder).digest}) == 3


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "correct its path in MLX_SERVER_AVAILABLE_MODELS" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_without_a_file_it_needs_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name.removeprefix("model") in refusal(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "chat_template.jinja", "special_tokens_map.json"]
)
def test_a_pipe_in_place_of_a_model_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert name in refusal(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json"]
)
def test_a_pointer_of_git_lfs_in_place_of_a_file_is_called_so(folder: Path, name: str) -> None:
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert f"{name} is a pointer of Git LFS" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("consolidated.safetensors", "mlx_lm.convert"),
        ("pytorch_model-00001-of-00002.bin", "mlx_lm.convert"),
        ("adapters.safetensors", "mlx_lm.fuse"),
        ("model-q4.gguf", "llama.cpp"),
        ("weights.npz", "mlx_lm.convert"),
    ],
)
def test_weights_of_another_kind_are_named_and_what_to_do_with_them(
    folder: Path, name: str, advice: str
) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert name in refusal(folder)
    assert advice in refusal(folder)


def test_a_link_that_leads_nowhere_is_an_error_only_if_its_file_is_read(folder: Path) -> None:
    (folder / "video_preprocessor.json").symlink_to(folder / "gone")
    inspect(folder)
    (folder / "added_tokens.json").symlink_to(folder / "gone")
    assert "added_tokens.json" in refusal(folder)


def test_a_reason_names_no_folder_of_this_disk(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert str(folder) not in refusal(folder)
    assert str(folder.parent) not in refusal(folder / "nowhere")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000, b"null", b"{} {}"]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": "evil.Evil"}


def plant(folder: Path) -> Path:
    """Code that leaves a trace when it is run; the trace's place."""
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    return folder / "ran"


def test_a_model_that_is_code_of_its_folder_is_refused_and_the_code_never_run(folder: Path) -> None:
    ran = plant(folder)
    edit_json(folder / "config.json", model_file="evil.py")
    assert "(model_file)" in refusal(folder)
    assert not ran.exists()


@pytest.mark.slow
@pytest.mark.parametrize("auto_map", [AUTO_MAP, {"AutoTokenizer": ["evil.Evil", None]}, ["evil.Evil", None]])
def test_a_model_with_auto_map_code_loads_without_running_it(folder: Path, auto_map: object) -> None:
    ran = plant(folder)
    edit_json(folder / "config.json", auto_map=AUTO_MAP)
    edit_json(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="EvilTokenizer")
    loaded = load(folder, inspect(folder), silent)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the réin 日")) == "the réin 日"
    assert not ran.exists()


@pytest.mark.slow
def test_a_tokenizer_that_exists_only_as_code_is_refused_and_its_code_never_run(folder: Path) -> None:
    ran = plant(folder)
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    (folder / "merges.txt").write_text("")
    edit_json(folder / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="EvilTokenizer")
    with pytest.raises(LoadError, match=r"conversion that has a tokenizer\.json") as caught:
        load(folder, inspect(folder), silent)
    assert caught.value.permanent
    assert not ran.exists()


def test_inspect_opens_only_known_files(folder: Path) -> None:
    for name in ("model.py", "pytorch_model.bin", "model.gguf", "weights.pkl"):
        os.mkfifo(folder / name)  # opening it waits for ever
    load(folder, inspect(folder), silent)


@pytest.mark.parametrize("model_type", [None, 3, "", "../../etc", "a.b", "x" * 101])
def test_a_config_without_a_usable_model_type_is_refused(folder: Path, model_type: object) -> None:
    edit_json(folder / "config.json", model_type=model_type)
    assert "model_type" in refusal(folder)


@pytest.mark.parametrize(
    "weight_map",
    [
        {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
        {"a": "model.safetensors", "b": "../model-00002-of-00002.safetensors"},
        None,
        [],
        {"a": 1},
    ],
)
def test_an_unusable_weight_index_is_logged_and_ignored(
    folder: Path, weight_map: object, caplog: pytest.LogCaptureFixture
) -> None:
    edit_json(folder / "model.safetensors.index.json", weight_map=weight_map)
    load(folder, inspect(folder), silent, trusted=True)
    assert "index" in caplog.text


def test_weights_that_are_missing_are_named_if_the_index_knows_their_file(folder: Path) -> None:
    import mlx.core as mx

    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    lost = "model.norm.weight"
    index = dict.fromkeys(weights, "model.safetensors") | {lost: "model-2.safetensors"}
    edit_json(folder / "model.safetensors.index.json", weight_map=index)
    mx.save_safetensors(str(folder / "model.safetensors"), {n: w for n, w in weights.items() if n != lost})
    with pytest.raises(LoadError, match=r"lacks model-2\.safetensors") as caught:
        load(folder, inspect(folder), silent, trusted=True)
    assert caught.value.permanent


LOADS_WITHOUT_A_NETWORK = """
import pathlib, socket, sys
from tests.tiny_model import make_tiny_llama
folder = make_tiny_llama(pathlib.Path(sys.argv[1]) / "model")
from workers.model.load import inspect, load

def refuse(event, arguments):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and arguments[0].family != socket.AF_UNIX):
        print("asked for", event, arguments[1:], flush=True)
        raise PermissionError(event)

sys.addaudithook(refuse)
load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
print("loaded")
"""


@pytest.mark.slow
def test_a_model_of_a_folder_is_loaded_without_asking_any_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADS_WITHOUT_A_NETWORK, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "loaded\n", done.stderr
