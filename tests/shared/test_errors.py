"""Texts that clients read name no folder of this machine."""

import re

import pytest

from shared.errors import without_folders


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("[Errno 2] No such file or directory: '/opt/mlx/bin/python'", "python'"),
        ("it exited; see /tmp/mlx-server-0-8000/log/worker-a.log", "see worker-a.log"),
        ("cannot read ~/models/tiny/config.json.", "read config.json."),
        ("no '/Users/Jo Doe/My Models/tiny model'", "no 'tiny model'"),
        ('no "/Users/Jo Doe/My Models/tiny model/"', 'no "tiny model/"'),
        ("two: /a/b/c and /d/e/f", "two: c and f"),
    ],
)
def test_an_absolute_path_is_cut_down_to_its_last_name(text: str, kept: str) -> None:
    cut = without_folders(text)
    assert cut.endswith(kept)
    assert not re.search(r"opt|tmp|Users|Doe|models|a/|d/", cut)


@pytest.mark.parametrize(
    "text",
    [
        "the hub cannot be reached at https://huggingface.co/org/name",
        "org/name is not on this disk",
        "either/or, 1/2, and/or",
        "its worker exited with code 3",
    ],
)
def test_names_of_repositories_and_urls_are_left(text: str) -> None:
    assert without_folders(text) == text


def test_a_long_text_of_slashes_and_quotes_costs_milliseconds() -> None:
    for text in ("/a" * 1000, "'" * 2000, "'/" * 1000, "'/a b" * 400, "/" * 2000):
        without_folders(text)
