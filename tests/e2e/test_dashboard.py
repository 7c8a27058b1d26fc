"""The dashboard and the reference in headless Chromium, on whole servers."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from api.docs.openapi import OPERATIONS
from shared.api_keys import KeyFile
from tests.api.conftest import Stack as ApiStack
from tests.api.conftest import run_stack
from tests.api.fake_broker import call, saying
from tests.browser import DEADLINE, needs_chromium, started, visit
from tests.faults.stack import FaultStack, fault_stack

pytestmark = [pytest.mark.slow, needs_chromium]

KEY = "an-admin-key-for-tests"
HOSTILE = (
    "<img src=x onerror=\"window.hit='img'\"><script>window.hit='script'</script>"
    "[x](javascript:window.hit='link') ![p](http://evil.example/p.png) **<b onclick=1>bold</b>**"
)
expect.set_options(timeout=DEADLINE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[FaultStack]:
    with fault_stack("--step", "0.02") as running:
        yield running


@pytest.fixture(scope="module")
def api() -> Iterator[ApiStack]:
    with run_stack() as running:
        yield running


def url(server: FaultStack, view: str) -> str:
    return f"http://127.0.0.1:{server.port}/ui#/{view}"


def row(page: Page, table: str, model: str) -> Any:
    return page.locator(f"#{table} tbody tr").filter(has=page.get_by_text(model, exact=True))


def say(page: Page, text: str) -> None:
    page.fill("#say", text)
    page.press("#say", "Enter")


def answer(page: Page) -> Any:
    return page.locator(".message.assistant").last


def set_parameters(page: Page, **values: str) -> None:
    """Of a chat with the model that is chosen."""
    page.locator("#settings summary").click()
    for name, value in values.items():
        page.locator(f"[name={name}]").fill(value)


def test_a_model_is_loaded_and_unloaded_and_the_page_sees_it(browser: Browser, server: FaultStack) -> None:
    with visit(browser, url(server, "status")) as page:
        expect(page.locator("#connection")).to_have_text("live")
        page.get_by_role("button", name="load b", exact=True).click()
        expect(row(page, "models", "b").locator(".badge")).to_have_text("hot")
        expect(row(page, "workers", "b").locator(".badge")).to_have_text("ready")
        page.get_by_role("button", name="unload b", exact=True).click()
        expect(row(page, "models", "b").locator(".badge")).to_have_text("loadable")
        expect(row(page, "workers", "b")).to_have_count(0)
        expect(page.locator("#changes")).to_contain_text("gone")


def test_a_killed_worker_is_seen_with_its_reason_and_its_stream_goes_on(
    browser: Browser, server: FaultStack
) -> None:
    with visit(browser, url(server, "chat")) as page:
        page.select_option("#model", "a")
        set_parameters(page, max_tokens="150")
        say(page, "hello")
        expect(answer(page)).to_contain_text("w")
        psutil.Process(server.worker_pid("a")).send_signal(signal.SIGKILL)
        expect(answer(page)).to_contain_text("150 tokens")
        page.goto(url(server, "status"))
        expect(page.locator("#crashes li").first).to_contain_text("SIGKILL")
        expect(page.locator("#workers")).to_contain_text("ready")


def test_a_chat_streams_stops_is_edited_and_made_again_and_stays_in_this_browser(
    browser: Browser, server: FaultStack
) -> None:
    with visit(browser, url(server, "chat")) as page:
        page.select_option("#model", "a")
        set_parameters(page, seed="7")
        say(page, "count to a million")
        expect(answer(page)).to_contain_text("w")
        expect(page.locator("#send")).to_have_text("Stop")
        page.click("#send")
        expect(answer(page)).to_contain_text("ended by you")
        server.until(lambda: server.in_flight() == 0, "the request cancelled")

        page.locator("[name=max_tokens]").fill("4")
        page.get_by_role("button", name="Regenerate").click()
        expect(answer(page)).to_contain_text("4 tokens")
        expect(answer(page)).to_contain_text("tokens/s")
        first = answer(page).locator(".text").inner_text()
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("the message").fill("something else")
        page.get_by_role("button", name="Send again").click()
        expect(answer(page)).to_contain_text("4 tokens")
        assert answer(page).locator(".text").inner_text() != first
        expect(page.locator(".message")).to_have_count(2)

        page.reload()
        page.locator("#conversations button", has_text="something else").click()
        expect(page.locator(".message.user")).to_contain_text("something else")
        page.get_by_role("button", name="delete something else").click()
        page.reload()
        expect(page.locator("#connection")).to_have_text("live")
        expect(page.locator("#conversations li")).to_have_count(0)


def test_a_question_that_is_changed_while_its_answer_grows_has_the_new_answer_alone(
    browser: Browser, server: FaultStack
) -> None:
    with visit(browser, url(server, "chat")) as page:
        page.select_option("#model", "a")
        set_parameters(page, max_tokens="5000")
        say(page, "count to a million")
        expect(answer(page)).to_contain_text("w")
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("the message").fill("count to four")
        page.locator("[name=max_tokens]").fill("4")
        page.get_by_role("button", name="Send again").click()
        expect(answer(page)).to_contain_text("4 tokens")
        expect(page.locator(".message")).to_have_count(2)
        expect(page.locator(".message.user")).to_have_text(re.compile("count to four"))


def test_two_tabs_keep_each_others_conversations(browser: Browser, server: FaultStack) -> None:
    with visit(browser, url(server, "chat")) as one:
        other = one.context.new_page()
        other.goto(url(server, "chat"))
        for page, text in ((one, "from one tab"), (other, "from the other")):
            page.select_option("#model", "a")
            set_parameters(page, max_tokens="4")
            say(page, text)
            expect(answer(page)).to_contain_text("4 tokens")
        for page in (one, other):
            expect(page.locator("#conversations li")).to_have_count(2)
        one.reload()
        expect(one.locator("#conversations li")).to_have_count(2)


def test_the_page_asks_for_the_key_and_forgets_it_with_the_tab(browser: Browser, tmp_path: Path) -> None:
    with run_stack(keys_file=tmp_path / "none", api_keys=f"ops:admin={KEY}") as stack:
        with visit(browser, f"{stack.url}/ui") as page:
            expect(page.locator("#ask")).to_be_visible()
            page.fill("#secret", "wrong")
            page.get_by_role("button", name="Use this key").click()
            expect(page.locator("#why")).to_contain_text("not a key that holds here")
            page.fill("#secret", KEY)
            page.get_by_role("button", name="Use this key").click()
            expect(page.locator("#connection")).to_have_text("live")
            page.reload()
            expect(page.locator("#connection")).to_have_text("live")
            assert KEY not in page.evaluate(
                "JSON.stringify({...localStorage}) + document.cookie + location.href"
            )
        with visit(browser, f"{stack.url}/ui") as page:
            expect(page.locator("#ask")).to_be_visible()


def test_a_key_that_is_revoked_while_the_page_is_open_is_asked_for_again(
    browser: Browser, tmp_path: Path
) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key = keys.add("ops", admin=True)
    with (
        run_stack(keys_file=keys.path, api_keys=f"other={KEY}") as stack,
        visit(browser, f"{stack.url}/ui") as page,
    ):
        page.fill("#secret", key)
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#connection")).to_have_text("live")
        keys.revoke("ops")
        expect(page.locator("#ask")).to_be_visible()
        expect(page.locator("#changes li")).to_have_count(0)


def test_thinking_and_calls_are_shown_apart_and_a_call_is_answered(browser: Browser, api: ApiStack) -> None:
    api.broker.reset()
    api.broker.script = saying(
        {"reasoning": "let me see"}, {"text": "I ask."}, *call("c1", "weather", '{"at":', '"X"}')
    )
    with visit(browser, f"{api.url}/ui#/chat") as page:
        page.select_option("#model", "tiny")
        say(page, "how is it outside?")
        expect(answer(page).locator(".reasoning")).to_contain_text("Thinking")
        expect(answer(page).locator(".call b")).to_have_text("Calls weather")
        expect(answer(page).locator(".call pre")).to_contain_text('"at": "X"')
        expect(answer(page).locator(".text")).to_have_text("I ask.")
        api.broker.script = saying({"text": "Sunny."})
        page.get_by_role("button", name="Give results").click()
        page.get_by_label("result of weather").fill("sun")
        page.get_by_role("button", name="Send results").click()
        expect(answer(page).locator(".text")).to_have_text("Sunny.")


def test_a_refused_answer_says_why(browser: Browser, api: ApiStack) -> None:
    api.broker.reset()
    with visit(browser, f"{api.url}/ui#/chat") as page:
        page.select_option("#model", "tiny")
        set_parameters(page, temperature="9")
        say(page, "hi")
        expect(answer(page).locator(".refusal")).to_contain_text("temperature")


def assert_unharmed(page: Page) -> None:
    """Nothing of HOSTILE became a part of the page, and nothing of it ran."""
    assert page.evaluate("window.hit ?? null") is None
    assert page.evaluate("document.querySelectorAll('img, [onclick], [onerror], iframe').length") == 0
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("[...document.links].every((link) => /^https?:$/.test(link.protocol))")


def test_what_a_model_says_never_becomes_markup(browser: Browser, api: ApiStack) -> None:
    api.broker.reset()
    pieces = [{"reasoning": HOSTILE}, *({"text": letter} for letter in HOSTILE), *call("c", HOSTILE, HOSTILE)]
    api.broker.script = saying(*pieces)
    with visit(browser, f"{api.url}/ui#/chat") as page:
        page.select_option("#model", "tiny")
        say(page, HOSTILE)
        expect(answer(page).locator(".call")).to_contain_text("<img src=x")
        expect(answer(page).locator(".text")).to_contain_text("<img src=x")
        expect(answer(page).locator(".text strong")).to_have_text("<b onclick=1>bold</b>")
        assert_unharmed(page)
        page.reload()
        page.locator("#conversations button").first.click()
        expect(answer(page)).to_contain_text("<img src=x")
        assert_unharmed(page)


def poisoned(value: Any) -> Any:
    """The same with HOSTILE for every text."""
    match value:
        case str():
            return HOSTILE
        case dict():
            return {name: poisoned(each) for name, each in value.items()}
        case list():
            return [poisoned(each) for each in value]
    return value


def snapshot(report: Any) -> str:
    """The first event of /admin/events."""
    return f"event: snapshot\ndata: {json.dumps(report)}\n\n"


def test_no_name_reason_or_log_line_of_a_server_becomes_markup(browser: Browser, server: FaultStack) -> None:
    server.http.post("/admin/models/a/load", json={"wait": True})
    pid = server.worker_pid("a")
    psutil.Process(pid).send_signal(signal.SIGKILL)
    server.until(lambda: pid in [death["pid"] for death in server.status()["deaths"]], "a crash")
    server.http.post("/admin/models/a/load", json={"wait": True})
    report, models = poisoned(server.status()), poisoned(server.http.get("/v1/models").json())
    change = {"name": HOSTILE, "state": HOSTILE, "detail": HOSTILE}
    events = snapshot(report) + f"event: memory\ndata: {json.dumps(change)}\n\n"

    def answers(route: Route) -> None:
        if "/admin/events" in route.request.url:
            route.fulfill(content_type="text/event-stream", body=events)
        else:
            route.fulfill(json=models)

    with visit(browser, "about:blank") as page:
        page.route("**/admin/events*", answers)
        page.route("**/v1/models", answers)
        page.goto(url(server, "status"))
        for place in ("#workers", "#models", "#crashes", "#decisions", "#changes"):
            expect(page.locator(place)).to_contain_text("<img src=x")
        expect(page.locator("#model option").first).to_contain_text("<img src=x")
        assert_unharmed(page)


def test_a_decision_that_is_made_twice_is_shown_twice(browser: Browser, server: FaultStack) -> None:
    report = server.status()
    report["memory"]["decisions"] = [{"age": age, "line": "b makes room for a"} for age in (5, 3600)]
    events = snapshot(report)
    with visit(browser, "about:blank") as page:
        page.route(
            "**/admin/events*", lambda route: route.fulfill(content_type="text/event-stream", body=events)
        )
        page.goto(url(server, "status"))
        expect(page.locator("#decisions li")).to_have_text(
            [re.compile("5.0 s ago"), re.compile("1 h 0 min ago")]
        )


def test_a_model_that_is_not_here_is_fetched_and_its_download_stopped(
    browser: Browser, server: FaultStack
) -> None:
    orders: list[str] = []

    def answers(route: Route) -> None:
        if "/admin/events" in route.request.url:
            report = server.status()
            absent, fetched = report["models"][:2]
            absent.update(id="absent", state="loadable", absent=True)
            fetched.update(id="org/fetched", state="downloading")
            route.fulfill(content_type="text/event-stream", body=snapshot(report))
        else:
            orders.append(f"{route.request.method} {urlsplit(route.request.url).path}")
            route.fulfill(json={})

    with visit(browser, "about:blank") as page:
        page.route("**/admin/**", answers)
        page.goto(url(server, "status"))
        page.get_by_role("button", name="pull absent").click()
        page.get_by_role("button", name="stop the download org/fetched").click()
        server.until(lambda: len(orders) == 2, "both orders")
        assert orders == ["POST /admin/models/absent/pull", "DELETE /admin/models/org/fetched/pull"]


NOTE_CONNECTION = """
    const words = (window.words = []);
    const note = () => words.push(document.getElementById("connection").textContent);
    new MutationObserver(note).observe(document.getElementById("connection"), { childList: true });
"""


def test_an_api_process_that_is_killed_is_missed_and_found_again(
    browser: Browser, server: FaultStack
) -> None:
    with visit(browser, url(server, "status")) as page:
        expect(page.locator("#connection")).to_have_text("live")
        page.evaluate(NOTE_CONNECTION)
        server.program("api").kill()
        server.until(lambda: page.evaluate("words.some((word) => word !== 'live')"), "a lost connection")
        server.until(lambda: page.evaluate("words.at(-1) === 'live'"), "live again")


def test_a_broker_that_says_nothing_is_missed(browser: Browser, api: ApiStack) -> None:
    api.broker.reset()
    with visit(browser, f"{api.url}/ui") as page:
        expect(page.locator("#connection")).to_have_text("live")
        api.broker.deaf = True
        expect(page.locator("#connection")).to_have_text("no news")
        api.broker.deaf = False
        expect(page.locator("#connection")).to_have_text("live")


@pytest.mark.parametrize("view", ["status", "chat"])
def test_nothing_is_wider_than_a_phone(browser: Browser, server: FaultStack, view: str) -> None:
    with visit(browser, url(server, view), viewport={"width": 360, "height": 740}) as page:
        expect(page.locator("#connection")).to_have_text("live")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_reference_lists_every_path_and_tries_one(browser: Browser, api: ApiStack) -> None:
    api.broker.reset()
    with visit(browser, f"{api.url}/docs") as page:
        expect(page.locator(".opblock")).to_have_count(len(OPERATIONS))
        page.locator("#operations-Server-get_health .opblock-summary").click()
        page.get_by_role("button", name="Execute").click()
        expect(page.locator(".live-responses-table .response .response-col_status")).to_contain_text("200")
