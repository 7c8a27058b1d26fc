"""GET /ui: the dashboard and a chat, one page of a few files without a build step.

Rule: the page itself holds nothing, so it needs no key; all that it shows it asks of the other paths, with the key.
"""

from pathlib import Path

from api.http.assets import POLICY, Assets

FOLDER = Path(__file__).parent / "files"
# A script that made markup of a text would be stopped by the browser.
NO_MARKUP = {**POLICY, "require-trusted-types-for": "'script'", "trusted-types": "'none'"}


class Dashboard(Assets):
    def __init__(self) -> None:
        super().__init__(FOLDER, policy=NO_MARKUP)
