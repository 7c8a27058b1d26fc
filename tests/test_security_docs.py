"""docs/security.md names tests that exist, for each kind of fault."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs/security.md").read_text()


def test_each_kind_of_fault_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (S\d+) \|.*\|(.*)\|$", TABLE, re.MULTILINE)
    assert [name for name, _ in rows] == [f"S{number}" for number in range(1, 21)]
    there = set(
        re.findall(
            r"^(?:async )?def (test_\w+)",
            "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py")),
            re.MULTILINE,
        )
    )
    for name, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, name
        assert [test for test in named if test not in there] == [], name
