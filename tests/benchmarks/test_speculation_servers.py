"""The table of edits by several servers."""

from pathlib import Path

from benchmarks.servers import our_server
from benchmarks.speculation_servers import Side, _table


def test_each_side_is_compared_with_mlx_lm_server_and_its_answers_with_ours(tmp_path: Path) -> None:
    def side(title: str, rate: float, text: str) -> Side:
        server = our_server([tmp_path], tmp_path)  # never started
        return Side(title, server, {1: [rate, rate + 2], 4: [4 * rate, 4 * rate]}, {0: text, 1: "same"})

    sides = [side("off", 1.0, "a"), side("on", 9.0, "a"), side("theirs", 3.0, "b")]
    header, _, *rows = _table(sides, (1, 4))
    assert header == (
        "| | 1 client, tokens/s | times mlx_lm.server | 4 clients, tokens/s | times mlx_lm.server | answers as ours |"
    )
    assert rows == [
        "| off | 2.0 | 0.50 | 4.0 | 0.33 | 2 of 2 |",
        "| on | 10.0 | 2.50 | 36.0 | 3.00 | 2 of 2 |",
        "| theirs | 4.0 | 1.00 | 12.0 | 1.00 | 1 of 2 |",
    ]
