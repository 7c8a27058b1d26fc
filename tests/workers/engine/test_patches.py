"""What is replaced in mlx and mlx-lm: only in versions that are known, and all of it can be taken back."""

import ast
import logging
import re
import tomllib
from collections.abc import Collection, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_architecture import MLX, ROOT, file_id, nodes, parse, sources
from workers.engine import patches
from workers.engine.patches import KNOWN, replace, replaced, taken_back


@pytest.fixture(autouse=True)
def versions_are_asked_for_anew() -> Iterator[None]:
    patches.is_known.cache_clear()
    yield
    patches.is_known.cache_clear()


def test_what_is_replaced_is_theirs_for_a_while_and_then_ours_again() -> None:
    with taken_back():  # of other tests
        module = SimpleNamespace(attention="theirs", other="theirs")
        replace(module, "attention", "ours")
        replace(module, "attention", "ours")
        with taken_back():
            assert vars(module) == {"attention": "theirs", "other": "theirs"}
        assert vars(module) == {"attention": "ours", "other": "theirs"}
    replace(module, "attention", "theirs")


def test_what_is_replaced_for_a_while_is_back_after_an_error() -> None:
    module = SimpleNamespace(attention="theirs")
    with suppress(ValueError), replaced(module, "attention", "ours"):
        assert module.attention == "ours"
        raise ValueError
    assert module.attention == "theirs"


@pytest.mark.parametrize(
    ("here", "unknown"),
    [
        ({"mlx": "0.32.9", "mlx-lm": "0.32"}, ""),
        ({"mlx": "0.32.4.dev20260101+abc", "mlx-lm": "0.32rc1"}, ""),
        ({"mlx": "0.32.4"}, "mlx-lm of an unknown version"),
        ({"mlx": "0.33.0", "mlx-lm": "0.32.2"}, "mlx 0.33.0 (known: 0.32.*)"),
        ({"mlx": "0.32.4", "mlx-lm": "0.320.1"}, "mlx-lm 0.320.1 (known: 0.32.*)"),
    ],
)
def test_in_versions_that_are_not_known_nothing_is_replaced_and_a_warning_says_what_to_do(
    here: dict[str, str], unknown: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def version(distribution: str) -> str:
        if distribution not in here:
            raise PackageNotFoundError(distribution)
        return here[distribution]

    monkeypatch.setattr(patches, "version", version)
    monkeypatch.setattr(patches, "_replaced", [])
    module = SimpleNamespace(attention="theirs", rope="theirs")
    with caplog.at_level(logging.WARNING):
        replace(module, "attention", "ours")
        replace(module, "rope", "ours")
    assert set(vars(module).values()) == {"theirs" if unknown else "ours"}
    assert [unknown in line and "Install the versions" in line for line in caplog.messages] == [True] * bool(
        unknown
    )


def sets_attributes_of(path: Path, packages: Collection[str]) -> list[str]:
    """Assignments to what was imported from these packages, and each ``setattr`` that does not say to whose."""
    tree = parse(path)
    theirs = {
        alias.asname or alias.name.split(".")[0]
        for node in nodes(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0] in packages
    }
    targets = [
        target
        for node in nodes(tree)
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete)
        for target in (node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target])
    ]
    named = [target for target in targets if isinstance(target, ast.Attribute)]
    names = [ast.unparse(target) for target in named]
    calls = [ast.unparse(node) for node in nodes(tree) if isinstance(node, ast.Call)]
    return [name for name in names if name.split(".")[0] in theirs] + [
        call for call in calls if call.startswith(("setattr(", "delattr("))
    ]


def test_one_module_replaces_what_is_mlxs() -> None:
    found = {file_id(path) for path in sources("workers") if sets_attributes_of(path, MLX)}
    assert found == {"workers/engine/patches.py"}


def test_patches_are_for_the_versions_that_are_installed() -> None:
    demands = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for name, minor in KNOWN.items():
        wanted = [each for each in demands if re.match(rf"{name}[\[>]", each)]
        most = "0." + str(int(minor.split(".")[1]) + 1)
        assert wanted and all(f">={minor}" in each and f"<{most}" in each for each in wanted), name
