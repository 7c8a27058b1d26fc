"""The files of /docs and /ui as the api serves them."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from api.docs.reference import Docs
from api.http.assets import Assets
from api.ui.resource import Dashboard
from tests.api.conftest import Stack, run_stack

PAGES = {"/ui": Dashboard(), "/docs": Docs()}
OURS = [
    pytest.param(path, name, id=f"{path}/{name}")
    for path, assets in PAGES.items()
    for name in assets.files
    if not name.startswith("swagger-ui")
]


class References(HTMLParser):
    """What a page refers to, and what it would have to allow inline."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_refers_only_to_what_this_server_has_and_has_nothing_inline(stack: Stack, path: str) -> None:
    page = References(stack.client.get(path).text)
    assert not page.inline
    for link in page.links:
        assert link.startswith(("/", "#")), link
        assert link.startswith("#") or stack.client.get(link).status_code == 200, link


@pytest.mark.parametrize(("path", "name"), OURS)
def test_a_file_of_a_page_names_no_other_server_and_imports_what_is_there(path: str, name: str) -> None:
    text = PAGES[path].files[name].data.decode().replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+|@import|url\(", text)
    imported = re.findall(r"""from ["']([^"']+)["']|import\(""", text)
    assert {each.removeprefix("/ui/") for each in imported} <= PAGES["/ui"].files.keys()


@pytest.mark.parametrize("path", ["/ui", "/ui/main.js", "/docs", "/docs/swagger-ui-bundle.js"])
def test_a_page_runs_its_own_files_only_and_nowhere_in_a_frame(stack: Stack, path: str) -> None:
    headers = stack.client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_dashboard_may_not_make_markup_of_a_text(stack: Stack) -> None:
    policy = stack.client.get("/ui").headers["content-security-policy"]
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("name", "kind"),
    [("index.html", "text/html"), ("main.js", "text/javascript"), ("style.css", "text/css")],
)
def test_a_file_has_its_type_and_is_sent_once(stack: Stack, name: str, kind: str) -> None:
    first = stack.client.get(f"/ui/{name}")
    assert first.headers["content-type"].startswith(kind)
    again = stack.client.get(f"/ui/{name}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2fresource.py", "%2e%2e%2fresource.py", "LICENSE", "ORIGIN"]
)
def test_no_other_file_is_served(stack: Stack, name: str) -> None:
    for path in PAGES:
        assert stack.client.get(f"{path}/{name}").status_code == 404


def test_a_file_that_came_later_is_not_served(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")
    assets = Assets(tmp_path)
    (tmp_path / "late.js").write_text("")
    assert list(assets.files) == ["index.html"]


def test_pages_need_no_key_and_what_they_show_does(tmp_path: Path) -> None:
    with run_stack(keys_file=tmp_path / "none", api_keys="ops:admin=an-admin-key-for-tests") as stack:
        for path in ("/ui", "/ui/main.js", "/docs", "/docs/reference.js", "/openapi.json"):
            assert stack.client.get(path).status_code == 200
        for path in ("/admin/status", "/admin/events", "/v1/models"):
            assert stack.client.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/ui", "/ui/main.js", "/docs"])
def test_pages_are_for_known_hosts_and_origins_only(stack: Stack, path: str) -> None:
    assert stack.client.get(path, headers={"host": "evil.example"}).status_code == 403
    assert stack.client.get(path, headers={"origin": "http://evil.example"}).status_code == 403
