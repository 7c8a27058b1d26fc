"""The model's name in a form, as uploads of audio have it."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.hosting.forms import boundary_of, value_of, with_value
from api.http.errors import InvalidField

plain = st.text(st.characters(codec="utf-8", exclude_characters='"\r\n;\x00'), min_size=1, max_size=20)


def form(model: str, file: bytes, **more: str) -> tuple[str, bytes]:
    fields = {**more, "model": model}
    files: Any = {
        "file": ("a.wav", file, "audio/wav"),
        **{name: (None, value) for name, value in fields.items()},
    }
    request = httpx.Request("POST", "http://test/", files=files)
    return request.headers["content-type"], request.read()


@given(plain, plain, st.binary(max_size=300), plain)
def test_only_the_models_name_changes(old: str, new: str, file: bytes, prompt: str) -> None:
    kind, data = form(old, file, prompt=prompt)
    boundary = boundary_of(kind)
    assert value_of(data, boundary, "model") == old
    changed = with_value(data, boundary, "model", new)
    assert value_of(changed, boundary, "model") == new
    assert value_of(changed, boundary, "prompt") == prompt
    assert with_value(changed, boundary, "model", old) == data


def test_a_form_without_a_model_has_none() -> None:
    assert (
        value_of(b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--', b"--x", "model")
        is None
    )


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary="])
def test_a_form_without_a_boundary_is_refused(kind: str) -> None:
    with pytest.raises(InvalidField):
        boundary_of(kind)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for body in (
        data,
        b"--x\r\n" + data,
        b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\n' + data,
    ):
        try:
            value_of(body, b"--x", "model")
        except InvalidField:
            pass
