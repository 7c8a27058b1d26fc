"""docs/metal.md names a test that exists for each hazard, in the file that it names."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_hazard_on_metal_names_tests_that_exist_in_their_file() -> None:
    table = re.findall(r"^\|(.+)\|$", (ROOT / "docs/metal.md").read_text(), re.MULTILINE)[2:]
    assert len(table) >= 13
    for row in table:
        _, _, proved, _ = row.split("|")
        [file] = re.findall(r"`([\w/]*test_\w+\.py)`", proved)
        [path] = (ROOT / "tests").rglob(file)
        names = re.findall(r"`(test_\w+)`", proved)
        assert names, row
        there = set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
        assert not set(names) - there, file
