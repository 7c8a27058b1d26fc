"""Images in messages, as the servers of hosted models read them: parts of chat completions. Pure."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any


def image_part(url: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def with_images(parts: Sequence[str | dict[str, Any]], between: str) -> str | list[dict[str, Any]]:
    """One text where there is no image; else parts in their order, with neighbouring texts joined by ``between``."""
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        return between.join(texts)
    joined: list[dict[str, Any]] = []
    for is_text, some in groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            joined.append({"type": "text", "text": between.join(map(str, some))})
        else:
            joined += [part for part in some if isinstance(part, dict)]
    return joined
