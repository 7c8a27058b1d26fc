"""Locating, inspecting and loading real folders: tiny models, damaged on purpose, and a hub on this machine."""

import json
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.models import ModelSource
from tests.tiny_model import EOS, Kind, make_tiny_llama, make_tiny_model
from workers.model.load import inspect, load, locate
from workers.model.load_error import LoadError
from workers.model.safetensors_headers import check_header, read_header

ROOT = Path(__file__).parents[3]


def silent(phase: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_llama(tmp_path / "model")


ABSENT = object()


def edit_json(file: Path, **changes: object) -> None:
    content = (json.loads(file.read_bytes()) if file.exists() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ABSENT}))


def refusal(folder: Path) -> str:
    with pytest.raises(LoadError) as caught:
        inspect(folder)
    assert caught.value.permanent
    return caught.value.reason


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# Inspect


def test_inspecting_imports_no_mlx(folder: Path) -> None:
    program = (
        "import sys, pathlib; from workers.model.load import inspect; inspect(pathlib.Path(sys.argv[1]));"
        "print([name for name in sys.modules if name.startswith('mlx')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_facts_are_known_without_loading(folder: Path) -> None:
    facts = inspect(folder)
    assert (facts.context_length, facts.model_type) == (512, "llama")


def test_equal_models_have_equal_digests(folder: Path, tmp_path: Path) -> None:
    assert inspect(make_tiny_llama(tmp_path / "again")).digest == inspect(folder).digest


def test_another_fine_tune_has_another_digest(folder: Path, tmp_path: Path) -> None:
    assert inspect(make_tiny_llama(tmp_path / "other", seed=1)).digest != inspect(folder).digest


def test_another_config_has_another_digest(folder: Path) -> None:
    before = inspect(folder).digest
    edit_json(folder / "config.json", rope_theta=5.0)
    assert inspect(folder).digest != before


def test_the_context_length_is_in_the_config(folder: Path) -> None:
    edit_json(folder / "config.json", rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert inspect(folder).context_length == 2048


def test_another_tokenizer_or_another_way_to_sample_has_another_digest(folder: Path) -> None:
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
def test_a_pipe_in_the_place_of_a_file_that_is_read_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert name in refusal(folder)


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


@pytest.mark.parametrize("auto_map", [AUTO_MAP, {"AutoTokenizer": ["evil.Evil", None]}, ["evil.Evil", None]])
def test_a_model_that_only_other_programs_run_code_for_loads_without_it(
    folder: Path, auto_map: object
) -> None:
    ran = plant(folder)
    edit_json(folder / "config.json", auto_map=AUTO_MAP)
    edit_json(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="EvilTokenizer")
    loaded = load(folder, inspect(folder), silent)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the réin 日")) == "the réin 日"
    assert not ran.exists()


def test_a_tokenizer_that_is_nothing_but_code_is_refused_and_the_code_never_run(folder: Path) -> None:
    ran = plant(folder)
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    (folder / "merges.txt").write_text("")
    edit_json(folder / "tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="EvilTokenizer")
    with pytest.raises(LoadError, match=r"conversion that has a tokenizer\.json") as caught:
        load(folder, inspect(folder), silent)
    assert caught.value.permanent
    assert not ran.exists()


def test_other_files_are_never_opened(folder: Path) -> None:
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
def test_an_index_that_is_wrong_is_warned_of_and_not_heeded(
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


# Safetensors

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x05", id="shorter than a header length"),
        pytest.param(b"\xff" * 64, id="huge header"),
        pytest.param(struct.pack("<Q", 200_000_000), id="header over the cap"),
        pytest.param(safetensors(b"{]"), id="header not json"),
        pytest.param(safetensors(b"\xff\xfe{}"), id="header not text"),
        pytest.param(safetensors(b"[" * 100_000), id="header nested too deep"),
        pytest.param(safetensors([]), id="header not an object"),
        pytest.param(safetensors({"a": F32}, bytes(7)), id="data truncated"),
        pytest.param(safetensors({"a": F32}, bytes(9)), id="data left over"),
        pytest.param(safetensors({"a": F32 | {"data_offsets": [8, 16]}}, bytes(16)), id="hole"),
        pytest.param(safetensors({"a": F32, "b": F32}, bytes(8)), id="overlap"),
        pytest.param(safetensors({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)), id="backwards"),
        pytest.param(safetensors({"a": F32 | {"data_offsets": [-8, 0]}}, bytes(8)), id="negative offset"),
        pytest.param(safetensors({"a": F32 | {"shape": [3]}}, bytes(8)), id="shape too large"),
        pytest.param(safetensors({"a": F32 | {"shape": [-1, -2]}}, bytes(8)), id="negative shape"),
        pytest.param(safetensors({"a": F32 | {"shape": [2.0]}}, bytes(8)), id="shape not whole"),
        pytest.param(safetensors({"a": F32 | {"shape": "2"}}, bytes(8)), id="shape not a list"),
        pytest.param(safetensors({"a": F32 | {"dtype": "F31"}}, bytes(8)), id="unknown dtype"),
        pytest.param(safetensors({"a": F32 | {"dtype": []}}, bytes(8)), id="dtype not text"),
        pytest.param(safetensors({"a": 3}, bytes(8)), id="tensor not an object"),
        pytest.param(safetensors({"a": F32 | {"shape": [1] * 8 + [2]}}, bytes(8)), id="nine dimensions"),
        pytest.param(safetensors({"a": F32 | {"shape": [0, 1 << 40]}}), id="a dimension of a trillion"),
        pytest.param(safetensors({"a": F32 | {"shape": [10**3999] * 3000}}), id="numbers of 4000 digits"),
        pytest.param(
            safetensors({f"t{i}": F32 | {"shape": [0], "data_offsets": [0, 0]} for i in range(100_001)}),
            id="100,001 tensors",
        ),
    ],
)
def test_a_garbled_weight_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "not a whole safetensors file" in refusal(folder)


def test_a_weight_file_cut_short_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    assert "not a whole safetensors file" in refusal(folder)


def test_a_weight_file_that_is_a_pipe_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "regular file" in refusal(folder)


def test_a_mutated_header_is_refused_or_still_describes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    whole = safetensors({"a": F32, "b": F32 | {"data_offsets": [8, 16]}}, bytes(16))
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(1000):
        mutated = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            mutated[dice.randrange(len(whole) - 16)] = dice.randrange(256)
        file.write_bytes(mutated)
        try:
            spans = check_header(file, read_header(file))
        except LoadError:
            continue
        assert sum(stop - start for start, stop, _ in spans) == 16


# Load


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
        {"max_position_embeddings": None},  # transformers checks it, mlx-lm does not
        {"vocab_size": 1 << 31 - 1},
        {"num_attention_heads": 0},
        {"eos_token_id": "x"},
        {"rms_norm_eps": "tiny"},
    ],
)
def test_a_model_that_does_not_fit_is_a_sentence(folder: Path, changes: dict[str, object]) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(LoadError, match="does not fit mlx-lm") as caught:
        load(folder, inspect(folder), silent, trusted=True)
    assert caught.value.permanent


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


# Locate


def test_a_folder_is_where_it_is(folder: Path, tmp_path: Path) -> None:
    assert locate(ModelSource("m", "folder", str(folder)), tmp_path, silent) == folder


COMMIT = "c" * 40
LOCATE = """
import json, pathlib, sys
from shared.models import ModelSource
from workers.model.load import LoadError, inspect, locate
phases = set()
try:
    source = ModelSource("m", "hub", sys.argv[1], sys.argv[2] or None)
    folder = locate(source, pathlib.Path("."), lambda phase, done, total: phases.add((phase, done, total)))
    inspect(folder)
    print(json.dumps({"files": sorted(file.name for file in folder.iterdir()), "phases": sorted(phases)}))
except LoadError as error:
    print(json.dumps({"reason": error.reason, "permanent": error.permanent}))
"""


class Hub:
    """Just enough of huggingface.co, on this machine: one model, and the ways it can refuse."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._answers())

    def locate(self, repository: str, revision: str = "", **environment: str) -> dict[str, Any]:
        endpoint = f"http://127.0.0.1:{self.server.server_port}"
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"}
        program = [sys.executable, "-c", LOCATE, repository, revision]
        no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        done = subprocess.run(
            program,
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | no_proxy | settings | environment,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def _answers(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 (the name http.server looks for)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Answers

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        match path.split("?")[0].strip("/").split("/"):
            case ["api", "models", "org", "tiny", "revision", "none"]:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            case ["api", "models", "org", "tiny", "revision", _]:
                return 200, {}, json.dumps({"id": "org/tiny", "sha": COMMIT}).encode()
            case ["api", "models", "org", "tiny", "tree", _]:
                return 200, {}, json.dumps([self._entry(file) for file in self.folder.iterdir()]).encode()
            case ["org", "tiny", "resolve", _, name]:
                body = (self.folder / name).read_bytes()
                return 200, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}, body
            case ["api", "models", "org", "gated", *_]:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            case ["api", "models", "org", "broken", *_]:
                return 500, {}, b""
            case _:
                return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _entry(self, file: Path) -> dict[str, object]:
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(folder, tmp_path / "home")
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def test_a_hub_model_is_downloaded_once_and_then_served_offline(hub: Hub, folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(bytes(10))
    first = hub.locate("org/tiny")
    assert "model.safetensors" in first["files"]
    assert not {"evil.py", "consolidated.safetensors"} & set(first["files"])
    assert first["phases"][-1][0] == "download"
    assert first["phases"][-1][1] == first["phases"][-1][2] > 100_000
    hub.asked.clear()
    assert hub.locate("org/tiny", HF_HUB_OFFLINE="1") == first | {"phases": []}
    assert hub.locate("org/tiny") == first | {"phases": []}
    assert hub.asked == []


def test_the_revision_an_operator_names_is_the_one_that_is_asked_for(hub: Hub) -> None:
    assert "model.safetensors" in hub.locate("org/tiny", "v2")["files"]
    assert any(path.startswith("/api/models/org/tiny/revision/v2") for path in hub.asked)
    hub.asked.clear()
    assert "model.safetensors" in hub.locate("org/tiny", "v2")["files"]
    assert hub.asked == []
    told = hub.locate("org/tiny", "none")
    assert "does not have the revision" in told["reason"]
    assert told["permanent"]


def test_a_download_that_lost_a_file_is_completed(hub: Hub) -> None:
    first = hub.locate("org/tiny")
    (weights,) = hub.home.glob("**/snapshots/*/model.safetensors")
    weights.unlink()
    assert hub.locate("org/tiny")["files"] == first["files"]


@pytest.mark.parametrize(
    ("repository", "environment", "words", "permanent"),
    [
        ("org/nonesuch", {}, "does not exist, or is private", True),
        ("org/gated", {}, "accept its terms", True),
        ("org/broken", {}, "hub cannot be reached", False),
        ("org/tiny", {"HF_HUB_OFFLINE": "1"}, "hf download org/tiny", False),
        ("org/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "hub cannot be reached", False),
        ("not a name", {}, "not the name of a hub repository", True),
    ],
)
def test_a_download_that_fails_tells_the_operator_what_to_do(
    hub: Hub, repository: str, environment: dict[str, str], words: str, permanent: bool
) -> None:
    answer = hub.locate(repository, **environment)
    assert words in answer["reason"]
    assert answer["permanent"] is permanent
