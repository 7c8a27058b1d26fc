"""The file of API keys, and the keys that hold at a moment."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.api_keys import ApiKey, KeyFile, KeyRing, KeysUnusable, from_environment
from shared.settings import Settings, unusable_keys

SECRET = "a-secret-of-an-operator"


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "of" / "keys.json")


def ring_of(file: KeyFile, *given: str) -> KeyRing:
    return KeyRing([from_environment(entry) for entry in given], file.path)


def test_a_key_that_was_made_is_found_and_no_other(file: KeyFile) -> None:
    key = file.add("anna", models=["a", "b-*"])
    ring = ring_of(file)
    found = ring.find(key)
    assert found and (found.name, found.admin) == ("anna", False)
    assert ring.find(key[:-1]) is ring.find("") is ring.find(key + "x") is None


def test_the_file_is_its_owners_alone_and_holds_no_key(file: KeyFile) -> None:
    key = file.add("anna")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert key not in file.path.read_text()
    assert [path.name for path in file.path.parent.iterdir() if path.suffix != ".lock"] == ["keys.json"]


def test_a_file_that_others_may_read_is_refused(file: KeyFile) -> None:
    file.add("anna")
    file.path.chmod(0o644)
    with pytest.raises(KeysUnusable, match="chmod 600"):
        file.read()


@pytest.mark.parametrize(
    "text", ["{}", "no", "[1]", '[{"name": "a"}]', "[" * 100_000, '[{"name": "a", "x": 1}]']
)
def test_a_file_that_holds_no_keys_is_refused(file: KeyFile, text: str) -> None:
    file.add("anna")
    file.path.write_text(text)
    with pytest.raises(KeysUnusable):
        file.read()


@given(st.binary(max_size=200))
def test_no_bytes_in_the_file_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_bytes(raw)
    path.chmod(0o600)
    try:
        KeyFile(path).read()
    except KeysUnusable:
        pass


def test_a_running_server_sees_keys_that_are_made_and_revoked(file: KeyFile) -> None:
    ring = ring_of(file)
    assert ring.find("any") is None
    key = file.add("anna")
    assert ring.required
    assert ring.find(key)
    file.revoke("anna")
    assert ring.find(key) is None


def test_without_its_last_key_a_server_lets_nobody_in_until_it_starts_anew(file: KeyFile) -> None:
    file.add("anna")
    ring = ring_of(file)
    file.revoke("anna")
    assert ring.required
    file.path.unlink()
    assert ring.required
    assert not ring_of(file).required


def test_a_file_that_became_unreadable_changes_nothing(file: KeyFile) -> None:
    key = file.add("anna")
    ring = ring_of(file)
    file.path.write_text("no")
    assert ring.find(key)
    with pytest.raises(KeysUnusable):
        ring_of(file)


def test_a_key_holds_until_it_expires(file: KeyFile) -> None:
    past = file.add("past", expires=datetime.now(UTC) - timedelta(seconds=1))
    future = file.add("future", expires=datetime.now(UTC) + timedelta(hours=1))
    ring = ring_of(file)
    assert ring.find(past) is None
    assert ring.find(future)


def test_two_keys_have_two_names(file: KeyFile) -> None:
    file.add("anna")
    with pytest.raises(KeysUnusable, match="already"):
        file.add("anna")
    with pytest.raises(KeysUnusable, match="letters"):
        file.add("an na")
    with pytest.raises(KeysUnusable, match="keys: anna"):
        file.revoke("otto")


@pytest.mark.parametrize(
    ("entry", "name", "admin"),
    [
        (SECRET, "key-", False),
        (f"anna={SECRET}", "anna", False),
        (f"ops:admin={SECRET}", "ops", True),
        ("YWJjZGVmZ2hpamtsbW5vcA==", "key-", False),
    ],
)
def test_a_key_of_the_environment_may_have_a_name_and_a_role(entry: str, name: str, admin: bool) -> None:
    key = from_environment(entry)
    assert key.name.startswith(name)
    assert key.admin is admin


@pytest.mark.parametrize(
    "entry", ["short", f"a:root={SECRET}", f"a b={SECRET}", "with a blank in its middle", "ü" * 20]
)
def test_a_key_of_the_environment_that_cannot_be_one_is_refused_without_being_quoted(entry: str) -> None:
    with pytest.raises(ValueError, match="key") as refused:
        from_environment(entry)
    assert SECRET not in str(refused.value)


def test_keys_may_stand_in_a_file_of_a_container(file: KeyFile, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"# of the team\n\nanna={SECRET}\n")
    ring = Settings(api_keys_file=secret, keys_file=file.path).key_ring()
    found = ring.find(SECRET)
    assert found and found.name == "anna"
    secret.write_text("short\n")
    with pytest.raises(KeysUnusable, match=str(secret)):
        Settings(api_keys_file=secret, keys_file=file.path).key_ring()


def test_a_key_for_some_models_is_for_these_and_their_aliases() -> None:
    key = ApiKey(name="a", digest="0" * 64, models=("small", "claude-*"))
    assert key.may_use("small")
    assert key.may_use("claude-haiku", "org/large")
    assert not key.may_use("org/large")
    assert ApiKey(name="a", digest="0" * 64).may_use("anything")


def test_the_api_listens_beyond_this_machine_once_there_is_a_key(file: KeyFile) -> None:
    beyond = Settings(host="0.0.0.0", keys_file=file.path)
    assert "keys create" in str(unusable_keys(beyond))
    file.add("anna")
    assert unusable_keys(beyond) is None
    assert unusable_keys(Settings(host="0.0.0.0", api_keys=f"anna={SECRET}")) is None


def test_what_is_written_is_what_is_read(file: KeyFile) -> None:
    file.add("anna", admin=True, models=["x"], expires=datetime.now(UTC))
    [entry] = json.loads(file.path.read_text())
    assert set(entry) == {"name", "digest", "admin", "models", "created", "expires"}
    [key] = file.read()
    assert (key.name, key.admin, key.models) == ("anna", True, ("x",))
