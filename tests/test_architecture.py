"""The arrows between folders, read from the imports: api -> shared <- broker, workers -> shared, cli -> shared."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

from broker.workers.lifecycle import TRANSITIONS
from tests.module_list import module_list, sections

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "broker", "workers", "shared", "cli")
LAYERS = (
    "broker.server",
    "broker.core",
    "broker.models.orders",
    "broker.models.unwanted",
    "broker.workers.workers",
    "broker.requests.requests",
    "broker.memory.accounts",
    "broker.requests.admission",
    "broker.requests.scheduler",
    "broker.workers.registry",
    "broker.workers.lifecycle",
)  # of the broker, from the top

MAY_IMPORT = {
    "shared": {"shared"},
    "api": {"api", "shared"},
    "broker": {"broker", "shared"},
    "workers": {"workers", "shared"},
    "cli": {"cli", "shared"},
}
EXCEPTIONS = {
    ("cli/messages.py", "workers.device"),  # tells where MLX computes
    ("cli/messages.py", "workers.engine.cpu.install"),  # prints which BLAS was found
    ("shared/openai.py", "api.openai.schemas"),  # the name under which the first specification had them
}

NOT_SHARED_BY_TWO = {
    "openai",  # the first specification has the schemas under this name
}
DIALECTS = ("openai", "responses", "messages", "embeddings")
MAX_LINES = 500
STILL_LONG = {
    "tests/workers/model/test_load.py",
}

SEAM = {f"workers.{name}" for name in ("job", "sequence", "device", "token_ids")}  # below the engine
CPU_DOOR = "workers.engine.cpu.install"
USE_THE_CPU_DOOR = {"workers/__main__.py", "workers/serve.py", "cli/messages.py"}
ENGINES = ("workers/engine/", "workers/encoders/")
MEASURES_THE_ENGINE = "workers/self_check/"
ENCODERS_SHARE = {
    CPU_DOOR,
    "workers.engine.scheduling.fairness",
    "workers.engine.figures",
    "workers.engine.memory.device_memory",
}  # with the engine of chat models

ASKS_MLX = {"workers/device.py"}  # where it computes
RUNS_OTHERS_CODE = {
    f"workers/self_check/{name}.py" for name in ("mlx_lm_server", "bare_loop")
}  # to compare with
LOADERS = {f"workers/model/{name}.py" for name in ("load", "embedded", "serve_model")}
MLX = {"mlx", "mlx_lm"}
HEAVY = MLX | {"transformers", "huggingface_hub"}
NEED_NO_ENGINE = {
    "workers/model/load.py",  # warms the model up, before any kernel is installed
    "workers/self_check/bare_loop.py",  # what the engine is compared with
    "workers/encoders/loading/qwen3.py",
    "workers/encoders/models/decoder.py",
}  # and call a model all the same
SERIALISERS_THAT_RUN_CODE = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "joblib",
}
METHODS_THAT_PICKLE = {"send_pyobj", "recv_pyobj"}

PASSES_THE_ENVIRONMENT_ON = {"cli/stack.py", "cli/launch/start.py", "workers/host/server.py"}
THE_ONE_PLACE = {"shared/settings.py"}
HAS_A_SWITCH_FOR_TESTS = {"workers/device.py"}  # of the accelerator's path
TELLS_THE_TIME = {
    "api/generation/usage.py",
    "api/openai/models.py",
    "shared/logs.py",
}  # ``created`` in answers; logs


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module a file names, wherever in it; ``from a import b`` gives both ``a`` and ``a.b``."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(parse(path))}


def attributes(tree: ast.Module) -> Iterator[str]:
    """``os.environ`` from both ``os.environ`` and ``from os import environ``; ``.attribute`` of anything else."""
    yield from imports(tree)
    for node in nodes(tree):
        if isinstance(node, ast.Attribute):
            yield f"{node.value.id}.{node.attr}" if isinstance(node.value, ast.Name) else f".{node.attr}"


def users(wanted: set[str], *folders: str) -> set[str]:
    return {
        str(path.relative_to(ROOT)) for path in sources(*folders) if wanted & set(attributes(parse(path)))
    }


def file_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_process_imports_only_itself_and_shared() -> None:
    assert not {file_id(path): found for path in sources(*PACKAGES) if (found := strangers_in(path))}


def strangers_in(path: Path) -> set[str]:
    """What a file imports and must not."""
    name = file_id(path)
    allowed = MAY_IMPORT[path.relative_to(ROOT).parts[0]]
    excepted = {module for file, module in EXCEPTIONS if file == name}
    ours = {
        module
        for module in imports(parse(path))
        if module.split(".")[0] in {*PACKAGES, "tests", "benchmarks"}
    }
    strangers = {module for module in ours if module.split(".")[0] not in allowed}
    return {module for module in strangers if not any(module.startswith(good) for good in excepted)}


def reach(module: str) -> set[str]:
    """The modules of the same package that ``module`` imports, and theirs."""
    package = module.split(".")[0]
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = ROOT / f"{waiting.pop().replace('.', '/')}.py"
        names = {
            name
            for name in imports(parse(path))
            if name.startswith(f"{package}.") and (ROOT / f"{name.replace('.', '/')}.py").exists()
        }
        waiting += names - found
        found |= names
    return found


def test_no_dialect_knows_another() -> None:
    known = {
        (file_id(path), module)
        for dialect in DIALECTS
        for path in sources(f"api/{dialect}")
        for module in imports(parse(path))
        for other in DIALECTS
        if other != dialect and module.startswith(f"api.{other}")
    }
    assert not known


def test_what_the_dialects_share_knows_none_of_them() -> None:
    below = {module for path in sources("api/generation", "api/http") for module in imports(parse(path))}
    assert not {module for module in below if module.startswith(tuple(f"api.{name}" for name in DIALECTS))}


@cache
def imported_by(path: Path) -> frozenset[str]:
    return frozenset(imports(parse(path)))


@cache
def processes_that_import(module: str) -> frozenset[str]:
    """By themselves, or through other modules of ``shared``."""
    found: set[str] = set()
    for path in sources(*PACKAGES):
        if f"shared.{module}" in imported_by(path):
            package = path.relative_to(ROOT).parts[0]
            found |= processes_that_import(path.stem) if package == "shared" else {package}
    return frozenset(found)


def test_the_api_on_http_knows_nothing_of_what_it_carries() -> None:
    known = {
        (path.name, module)
        for path in sources("api/http")
        for module in imports(parse(path))
        if module.startswith("api.") and not module.startswith("api.http")
    }
    assert not known


def test_shared_holds_only_what_two_processes_use() -> None:
    alone = {
        path.stem
        for path in sources("shared")
        if path.stem != "__init__" and len(processes_that_import(path.stem)) < 2
    }
    assert alone == NOT_SHARED_BY_TWO


def test_no_file_is_longer_than_500_lines() -> None:
    long = {
        file_id(path)
        for path in sources(*PACKAGES, "tests", "benchmarks")
        if len(path.read_text().splitlines()) > MAX_LINES
    }
    assert long <= STILL_LONG


@pytest.mark.parametrize("layer", LAYERS)
def test_the_broker_imports_downwards_only(layer: str) -> None:
    above = set(LAYERS[: LAYERS.index(layer)])
    assert not reach(layer) & above


def test_the_core_of_the_broker_knows_no_sockets_no_processes_and_no_files() -> None:
    below = reach("broker.core") | {"broker.core"}
    assert not {module for module in below if module.startswith("broker.system.")}
    for module in below:
        path = ROOT / f"{module.replace('.', '/')}.py"
        assert not tops(path) & {"zmq", "subprocess", "socket", "threading"}, module


def test_one_module_of_the_api_knows_zeromq() -> None:
    assert {file_id(path) for path in sources("api") if "zmq" in tops(path)} == {
        "api/generation/broker_client.py"
    }


def modules_of(path: Path, package: str) -> set[str]:
    return {name for name in imports(parse(path)) if name == package or name.startswith(f"{package}.")}


def within(name: str, modules: Collection[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def test_the_engine_imports_only_itself_and_the_seam() -> None:
    allowed = {"workers.engine", *SEAM}
    for path in sources("workers/engine"):
        others = {name for name in modules_of(path, "workers") if not within(name, allowed)}
        assert not others, file_id(path)


def test_the_kv_store_knows_neither_who_keeps_prefixes_nor_what_memory_there_is() -> None:
    allowed = {"workers.engine.kv", "workers.engine.pass_memo", "workers.engine.patches", *SEAM}
    for path in sources("workers/engine/kv"):
        others = {name for name in modules_of(path, "workers") if not within(name, allowed)}
        assert not others, file_id(path)


def test_the_scheduler_reaches_neither_mlx_nor_the_clock_nor_what_it_plans_for() -> None:
    found, waiting = set[str](), ["workers.engine.scheduling.scheduler"]
    while waiting:
        path = ROOT / f"{waiting.pop().replace('.', '/')}.py"
        names = {name for name in imports(parse(path)) if (ROOT / f"{name.replace('.', '/')}.py").is_file()}
        assert not tops(path) & {*HEAVY, "time"}, path
        waiting += names - found
        found |= names
    assert {"workers.engine.engine", "workers.engine.batch", "workers.engine.prefill"}.isdisjoint(found)


def test_the_seam_does_not_import_the_engine() -> None:
    for module in SEAM:
        assert not modules_of(ROOT / f"{module.replace('.', '/')}.py", "workers.engine")


def test_only_serve_model_imports_the_engine_and_others_only_the_door_of_its_cpu_folder() -> None:
    for path in sources(*PACKAGES):
        name = file_id(path)
        if name == "workers/model/serve_model.py" or name.startswith((*ENGINES, MEASURES_THE_ENGINE)):
            continue
        names = modules_of(path, "workers.engine")
        assert all(within(each, {CPU_DOOR}) for each in names), f"{name}: {names}"
        assert not names or name in USE_THE_CPU_DOOR, name


def test_encoders_share_with_the_engine_only_turns_figures_limits_of_memory_and_the_door_of_its_cpu_folder() -> (
    None
):
    for path in sources("workers/encoders"):
        others = {name for name in modules_of(path, "workers.engine") if not within(name, ENCODERS_SHARE)}
        assert not others, file_id(path)


def test_the_cpu_folder_has_one_door() -> None:
    for path in sources(*PACKAGES):
        if not file_id(path).startswith("workers/engine/cpu/"):
            names = modules_of(path, "workers.engine.cpu")
            assert all(within(each, {CPU_DOOR}) for each in names), f"{file_id(path)}: {names}"


def model_calls(path: Path) -> list[str]:
    """What is called ``model``, and what is given a cache by name, as mlx-lm's models are."""
    calls = [node for node in nodes(parse(path)) if isinstance(node, ast.Call)]
    return [
        ast.unparse(call)
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] in {"model", "_model"}
        or any(keyword.arg == "cache" for keyword in call.keywords)
    ]


def test_one_module_of_the_engine_calls_the_model_and_outside_of_it_only_those_without_an_engine() -> None:
    found = {file_id(path): model_calls(path) for path in sources("workers")}
    assert {file for file, calls in found.items() if calls} == {"workers/engine/forward.py"} | NEED_NO_ENGINE


def test_sockets_are_made_in_one_place() -> None:
    assert users({"zmq.DEALER", "zmq.ROUTER", "zmq.MAXMSGSIZE"}, *PACKAGES) == {"shared/sockets.py"}


def test_exit_codes_are_named_in_one_place() -> None:
    names = {f"os.{name}" for name in dir(os) if name.startswith("EX_")}
    assert users(names, *PACKAGES) == {"shared/exits.py"}


def test_mlx_stays_in_the_engine_and_the_loaders() -> None:
    users = {file_id(path) for path in sources(*PACKAGES) if tops(path) & MLX}
    assert {file for file in users if not file.startswith(ENGINES)} <= LOADERS | ASKS_MLX | RUNS_OTHERS_CODE


def test_settings_come_from_one_place() -> None:
    readers = users({"os.environ", "os.environb", "os.getenv"}, *PACKAGES)
    assert {
        file for file in readers if not file.endswith("__main__.py")
    } <= PASSES_THE_ENVIRONMENT_ON | THE_ONE_PLACE | HAS_A_SWITCH_FOR_TESTS


def pickles(path: Path) -> set[str]:
    names = {node.attr for node in nodes(parse(path)) if isinstance(node, ast.Attribute)}
    return (tops(path) & SERIALISERS_THAT_RUN_CODE) | (names & METHODS_THAT_PICKLE)


def test_nothing_is_pickled() -> None:
    found = {file_id(path): pickles(path) for path in sources(*PACKAGES, "tests", "benchmarks")}
    assert not {file: names for file, names in found.items() if names}


def test_zeromq_never_listens_on_a_network() -> None:
    """Its sockets are files of the run directory; without TCP nobody beyond this machine can speak to them."""
    texts = {
        file_id(path): [
            node.value
            for node in nodes(parse(path))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "tcp://" in node.value
        ]
        for path in sources(*PACKAGES)
    }
    assert not {file: found for file, found in texts.items() if found}


def test_digests_of_api_keys_are_compared_in_constant_time_only() -> None:
    found = [
        f"{file_id(path)}: {ast.unparse(node)}"
        for path in sources("shared", "api", "cli")
        for node in nodes(parse(path))
        if isinstance(node, ast.Compare) and ".digest" in ast.unparse(node)
    ]
    assert found == []


def test_each_locked_package_has_hashes_and_is_installed_with_them() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        lines = [line for line in lock.read_text().splitlines() if line and not line.lstrip().startswith("#")]
        packages = [index for index, line in enumerate(lines) if not line.startswith(" ")]
        assert packages
        assert [lines[index] for index in packages if "--hash=" not in lines[index + 1]] == []
    installs = re.findall(r"install \\\n.*|install .*requirements/.*", (ROOT / "Makefile").read_text())
    assert installs
    assert [line for line in installs if "--require-hashes" not in line] == []


def patched_paths(path: Path) -> list[str]:
    """The dotted paths that a test file patches by name, which no import checks and no rename follows."""
    calls = [node for node in nodes(parse(path)) if isinstance(node, ast.Call) and node.args]
    return [
        first.value
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] in {"setattr", "delattr", "patch"}
        and isinstance(first := call.args[0], ast.Constant)
        and isinstance(first.value, str)
    ]


def test_no_test_patches_by_a_dotted_path() -> None:
    found = {file_id(path): patched_paths(path) for path in sources("tests")}
    assert not {file: paths for file, paths in found.items() if paths}


def test_durations_are_measured_with_a_monotonic_clock() -> None:
    assert users({"time.time", "time.time_ns"}, *PACKAGES) <= TELLS_THE_TIME


@pytest.mark.parametrize(
    "module", ["broker.__main__", "api.__main__", "cli.__main__", "cli.serve", "cli.status"]
)
def test_only_workers_load_mlx(module: str) -> None:
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & HEAVY


# ---------------------------------------------------------------- what docs/architecture.md says


def guide() -> str:
    return (ROOT / "docs" / "architecture.md").read_text()


def lifecycle_diagram() -> str:
    lines = [
        f"    {state.name} --> {then.name}: {signal.value}"
        for state, row in TRANSITIONS.items()
        for signal, then in row.items()
    ]
    return "\n".join(
        ["```mermaid", "stateDiagram-v2", "    [*] --> SPAWNED", *lines, "    GONE --> [*]", "```"]
    )


def test_the_guide_draws_the_life_of_a_worker_as_it_is() -> None:
    drawn = guide().partition("<!-- lifecycle -->")[2].partition("<!-- /lifecycle -->")[0]
    assert drawn.strip() == lifecycle_diagram()


def test_the_guide_lists_every_module_as_its_docstring_says() -> None:
    assert sections()[1] == module_list(), "run `make docs`"


def named_files(document: Path) -> set[str]:
    """The source files that a document names between back-ticks."""
    return set(re.findall(r"`([\w./]+\.py)`", document.read_text()))


def test_the_documents_name_only_files_that_exist() -> None:
    there = [f"/{file_id(path)}" for path in sources(*PACKAGES, "tests", "benchmarks")]
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        named = named_files(document)
        missing = {name for name in named if not any(path.endswith(f"/{name}") for path in there)}
        assert not missing, file_id(document)
