"""A model's name is put in place of another, and no other byte changes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hosting.renaming import PLACES, named, renamed

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(["model", "message", "response", "a", 'q"{', "\\"]), values)
layouts = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])


@given(objects, layouts, st.text(min_size=1))
def test_only_the_names_value_changes(
    given_object: dict[str, Any], layout: dict[str, Any], name: str
) -> None:
    text = json.dumps(given_object, **layout)
    wanted = {**given_object}
    if isinstance(wanted.get("model"), str):
        wanted["model"] = name
    assert json.loads(renamed(text, name)) == wanted
    if not isinstance(given_object.get("model"), str):
        assert renamed(text, name) == text


@given(objects, layouts, st.text(min_size=1))
def test_renaming_back_gives_the_same_bytes(
    given_object: dict[str, Any], layout: dict[str, Any], name: str
) -> None:
    text = json.dumps({**given_object, "model": "own"}, **layout)
    assert renamed(renamed(text, name), "own") == text


@pytest.mark.parametrize("outer", ["response", "message"])
def test_events_have_the_name_one_level_down(outer: str) -> None:
    text = json.dumps({"type": "x", outer: {"id": 1, "model": "theirs", "model_": "theirs"}})
    assert json.loads(renamed(text, "ours", PLACES))[outer] == {"id": 1, "model": "ours", "model_": "theirs"}


def test_a_name_that_stands_twice_is_replaced_twice() -> None:
    """Which of the two a server reads differs."""
    assert renamed('{"model": "a", "x": 1, "model": "b"}', "c") == '{"model": "c", "x": 1, "model": "c"}'


@given(objects, layouts, st.text(min_size=1))
def test_a_request_without_a_name_gets_one(
    given_object: dict[str, Any], layout: dict[str, Any], name: str
) -> None:
    given_object.pop("model", None)
    assert json.loads(named(json.dumps(given_object, **layout), name)) == {**given_object, "model": name}


@pytest.mark.parametrize("text", ["", "[]", '"model"', '{"model"', '{"model": "a"', '{"model" "a"}', "{,}"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        renamed(text, "a")
