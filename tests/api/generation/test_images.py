"""Images in messages to hosted models, in two dialects; what is no image is refused by name."""

from typing import Any

import pytest

from api.generation.images import image_part, with_images
from api.messages.request import message_generation
from api.messages.schemas import MessagesRequest
from api.responses.request import response_generation
from api.responses.schemas import INPUT_ITEMS, ResponsesRequest
from shared.errors import InvalidRequest
from shared.protocol import ChatPrompt

URL = "https://example.com/a.png"


def message(*blocks: Any) -> Any:
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": list(blocks)}]}
    generation = message_generation(MessagesRequest.model_validate(body), sees=True)
    assert isinstance(generation.prompt, ChatPrompt)
    return generation.prompt.messages[-1]["content"]


def response(*parts: Any) -> Any:
    items = INPUT_ITEMS.validate_python([{"role": "user", "content": list(parts)}])
    generation = response_generation(ResponsesRequest(input="Hi"), items, sees=True)
    assert isinstance(generation.prompt, ChatPrompt)
    return generation.prompt.messages[-1]["content"]


def test_texts_alone_are_one_text() -> None:
    assert with_images(["a", "b"], "-") == "a-b"
    assert message({"type": "text", "text": "a"}, {"type": "text", "text": "b"}) == "a\n\nb"
    assert response({"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}) == "ab"


def test_an_image_keeps_its_place_among_texts() -> None:
    image = image_part(URL)
    a, b, c = ({"type": "text", "text": text} for text in "abc")
    block = {"type": "image", "source": {"type": "url", "url": URL}}
    assert message(a, b, block, c) == [{"type": "text", "text": "a\n\nb"}, image, c]
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": URL, "detail": "low"}]
    assert response(*parts) == [a, image_part(URL, detail="low")]


def test_base64_becomes_a_data_url() -> None:
    source = {"type": "base64", "media_type": "image/webp", "data": "AAAA"}
    assert message({"type": "image", "source": source}) == [image_part("data:image/webp;base64,AAAA")]


@pytest.mark.parametrize(
    "source", [{}, {"type": "file", "file_id": "f"}, {"type": "base64"}, {"type": "url"}]
)
def test_an_image_that_is_nowhere_is_refused_by_name(source: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        message({"type": "image", "source": source})
    assert refused.value.param == "messages[0].content[0].source"


def test_an_image_that_is_nowhere_in_a_response_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as refused:
        response({"type": "input_text", "text": "a"}, {"type": "input_image", "file_id": "f"})
    assert refused.value.param == "input[0].content[1]"


def test_a_model_that_does_not_see_refuses_an_image_by_name() -> None:
    block = {"type": "image", "source": {"type": "url", "url": URL}}
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}
    with pytest.raises(InvalidRequest) as refused:
        message_generation(MessagesRequest.model_validate(body))
    assert refused.value.param == "messages[0].content[0]"
