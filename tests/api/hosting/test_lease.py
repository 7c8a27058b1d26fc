"""A request's lease of a place at a hosted server: what is asked again, and what is not."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from api.generation.broker_client import BrokerClient
from api.generation.replies import Replies
from api.hosting.lease import Lease
from api.hosting.upstream import Upstream
from api.metrics.counters import Counters
from shared.errors import HostedServerFailed
from shared.protocol import Delta, Place

A, B = (Place(server=url, url=url, model="m", endpoints=["chat"]) for url in ("http://a", "http://b"))
ANSWER = cast(Upstream, object())


def gives(place: Place) -> Delta:
    return Delta(request_id="r", attempt=1, index=0, place=place)


async def asked(
    said: dict[str, list[Exception | Upstream]],
    meanwhile: Callable[[Replies], Awaitable[None]],
    lost: bool = False,
) -> tuple[list[str], Any]:
    """The servers that were asked in turn, and the answer or the failure.

    ``meanwhile``: what the broker tells; ``lost``: a server ended before A's place was given.
    """
    replies = Replies(1, 0.01, lambda: None)
    lease = Lease(cast(BrokerClient, None), replies, Counters().watch("m", 0.0), noticed=0.05)
    urls: list[str] = []

    async def send(place: Place) -> Upstream:
        urls.append(place.url)
        one = said[place.url].pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    if lost:
        replies.lost.set()
    replies.put(gives(A))
    place = await lease.next()
    assert place
    telling = asyncio.ensure_future(meanwhile(replies))
    try:
        async with asyncio.timeout(30):
            return urls, await lease.ask(place, send)
    except HostedServerFailed as failure:
        return urls, failure
    finally:
        await telling
        replies.close()


async def nothing(replies: Replies) -> None:
    pass


async def another_place(replies: Replies) -> None:
    replies.lost.set()
    await asyncio.sleep(0)
    replies.put(gives(B))


def test_a_request_that_no_byte_has_answered_gets_the_next_place_when_its_server_has_ended() -> None:
    failed = HostedServerFailed("closed")
    assert asyncio.run(asked({A.url: [failed], B.url: [ANSWER]}, another_place)) == ([A.url, B.url], ANSWER)


def test_a_request_is_tried_again_only_once() -> None:
    first, second = HostedServerFailed("closed"), HostedServerFailed("closed again")
    said: dict[str, list[Exception | Upstream]] = {A.url: [first], B.url: [second]}
    assert asyncio.run(asked(said, another_place)) == ([A.url, B.url], second)


@pytest.mark.parametrize("lost", [False, True])
def test_a_server_that_failed_and_has_not_ended_is_not_asked_again_whatever_ended_before(lost: bool) -> None:
    failed = HostedServerFailed("garbage")
    assert asyncio.run(asked({A.url: [failed]}, nothing, lost)) == ([A.url], failed)
