"""The broker client's timers after the event loop has stalled."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from api.generation.broker_client import BrokerClient
from shared.protocol import Chunks
from shared.settings import Settings
from tests.api.conftest import QUICK
from tests.api.fake_broker import DEADLINE, FakeBroker


@pytest.fixture
def settings() -> Iterator[Settings]:
    folder = tempfile.mkdtemp(prefix="mlx", dir="/tmp")
    yield Settings.model_validate({"run_dir": Path(folder), **QUICK})
    shutil.rmtree(folder)


@pytest.fixture
def broker(settings: Settings) -> Iterator[FakeBroker]:
    broker = FakeBroker(settings.api_socket)
    yield broker
    broker.close()


def run(settings: Settings, story: Callable[[BrokerClient], Awaitable[None]]) -> None:
    async def main() -> None:
        client = BrokerClient(settings)
        await client.start()
        try:
            async with asyncio.timeout(DEADLINE):
                await until(lambda: client.seen)
                await story(client)
        finally:
            await client.close()

    asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - what it looks at is no event
        await asyncio.sleep(0.005)


def test_the_broker_does_not_count_as_lost_after_the_api_slept(
    settings: Settings, broker: FakeBroker
) -> None:
    async def story(client: BrokerClient) -> None:
        broker.deaf = True  # so that no answer is waiting after the stall
        time.sleep(2 * settings.heartbeat_timeout)  # noqa: ASYNC251 - the loop itself shall stand still
        await asyncio.sleep(2 * settings.heartbeat_interval)
        assert client.seen
        broker.deaf = False

    run(settings, story)


def test_a_silent_broker_is_lost_and_found_again(settings: Settings, broker: FakeBroker) -> None:
    async def story(client: BrokerClient) -> None:
        broker.deaf = True
        await until(lambda: not client.seen)
        broker.deaf = False
        await until(lambda: client.seen)

    run(settings, story)


def test_any_first_message_shows_that_the_broker_is_back(settings: Settings, broker: FakeBroker) -> None:
    async def story(client: BrokerClient) -> None:
        broker.deaf = True
        await until(lambda: not client.seen)
        broker.say(Chunks(deltas=[]))
        await until(lambda: client.seen)

    run(settings, story)


def test_an_api_that_starts_before_the_broker_finds_it(settings: Settings) -> None:
    async def main() -> None:
        client = BrokerClient(settings)
        await client.start()
        assert not client.seen
        late = FakeBroker(settings.api_socket)
        async with asyncio.timeout(DEADLINE):
            await until(lambda: client.seen)
        await client.close()
        late.close()

    asyncio.run(main())
