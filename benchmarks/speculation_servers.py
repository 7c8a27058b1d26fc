"""Edits of a file by our server, with and without guessed tokens, and by ``mlx_lm.server``, with draft models as well.

    python -m benchmarks.speculation_servers        # about five minutes on two quiet cores
    python -m benchmarks.speculation_servers brief  # only to see that it works

All servers run, and one is asked at a time, in turns; the model is the embedded one in float32, and the requests are
those of ``benchmarks.speculation``. What counts is the time from the first text of an answer to the last of all. Each
server has read the prompts before, but for those with a draft: of a prompt that was kept they answer something else.
No smaller model with this tokenizer is embedded. So the drafts are the model itself, whose guesses are right and as
dear as its tokens, and a tiny one with random weights, whose guesses cost next to nothing and are wrong.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.servers import Server, our_server, their_server
from benchmarks.speculation import edit
from benchmarks.workloads import Ask

ROUNDS = 2
TOKENS = 48
CLIENTS = (1, 4)
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
}


@dataclass
class Side:
    """``rates``: tokens per second, by number of clients. ``texts``: by client."""

    title: str
    server: Server
    rates: dict[int, list[float]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)

    async def play(self, clients: int, tokens: int) -> None:
        asks = [Ask((("user", edit(client)),), tokens) for client in range(clients)]
        replies = await asyncio.gather(*(self.server.answer(ask, keep_text=True) for ask in asks))
        seconds = max(each.arrivals[-1] for each in replies) - min(each.arrivals[0] for each in replies)
        count = sum(each.completion_tokens for each in replies)
        self.rates.setdefault(clients, []).append(count / seconds if seconds else 0.0)
        self.texts.update({client: reply.text for client, reply in enumerate(replies)})


def main(*, brief: bool = False) -> None:
    clients, tokens, rounds = (CLIENTS[:1], 8, 1) if brief else (CLIENTS, TOKENS, ROUNDS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so the servers are ended
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, random = _models(folder)
        sides = [
            Side("mlx-server, no guesses", our_server([model], folder, settings={"speculation": "off"})),
            Side("mlx-server", our_server([model], folder, settings={"speculation": "on"})),
            Side("mlx_lm.server", their_server([model], folder)),
            Side("mlx_lm.server, the model as its draft", _drafting(model, model, folder)),
            Side("mlx_lm.server, a random draft", _drafting(model, random, folder)),
        ]
        try:
            asyncio.run(_measure(sides, clients, tokens, rounds))
        finally:
            for side in sides:
                side.server.stop()
    ours = sides[:2]
    assert ours[0].texts == ours[1].texts, "speculation changed an answer"
    print("\n".join(_table(sides, clients)))


def _models(folder: Path) -> tuple[Path, Path]:
    """The embedded one in float32, and a tiny one; made by another process, as only those load mlx."""
    made = [sys.executable, "-m", "benchmarks.float32_model", str(folder / "models")]
    model = Path(subprocess.run(made, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    random = Path(shutil.copytree(model, folder / "random"))
    config = json.loads((random / "config.json").read_text())
    (random / "config.json").write_text(json.dumps({**config, **TINY, "head_dim": 32}))
    subprocess.run(
        [sys.executable, "-m", "benchmarks.speculation_servers", "random", str(random)], check=True
    )
    return model, random


def make_random(folder: Path) -> None:
    """In place of the folder's weights, random ones of its config."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.llama import Model, ModelArgs

    mx.random.seed(1)
    model = Model(ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})


def _drafting(model: Path, draft: Path, folder: Path) -> Server:
    return their_server([model], folder, ["--draft-model", str(draft), "--prompt-cache-size", "0"])


async def _measure(sides: list[Side], clients: tuple[int, ...], tokens: int, rounds: int) -> None:
    for side in sides:
        await side.server.start()
        await side.play(max(clients), 1)
        side.rates.clear()
    for round in range(rounds):
        for some in clients:
            for side in sides if round % 2 == 0 else reversed(sides):
                await side.play(some, tokens)
                print(f"{side.title}, {some}: {side.rates[some][-1]:.1f} tokens/s", file=sys.stderr)


def _table(sides: list[Side], clients: tuple[int, ...]) -> list[str]:
    titles = [f"{some} client{'s' * (some > 1)}, tokens/s" for some in clients]
    lines = [f"| | {' | times mlx_lm.server | '.join(titles)} | times mlx_lm.server | answers as ours |"]
    lines.append("|---" * (2 * len(clients) + 2) + "|")
    peer = {some: median(sides[2].rates[some]) for some in clients}
    for side in sides:
        rates = {some: median(side.rates[some]) for some in clients}
        figures = [f"{rate:.1f} | {rate / peer[some]:.2f}" for some, rate in rates.items()]
        alike = sum(text == sides[0].texts[client] for client, text in side.texts.items())
        lines.append(f"| {side.title} | {' | '.join(figures)} | {alike} of {len(side.texts)} |")
    return lines


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["random", folder]:
            make_random(Path(folder))
        case words:
            main(brief="brief" in words)
