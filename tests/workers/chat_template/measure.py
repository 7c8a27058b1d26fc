"""`python -m tests.workers.chat_template.measure FOLDER`: what is derived from each template of a folder, as a table.

``chats`` are conversations that render with every word, of all: as they come, and as they are normalised.
"""

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.workers.chat_template.conversations import CONVERSATIONS, TOOLS
from workers.chat_template.analysis import TemplateAnalysis, analyse
from workers.chat_template.environment import Rendering
from workers.chat_template.normalize import Normalized, normalize

MEMORY = 4 << 30
HEAD = "| template | calls | tools | limits | thinking | switches | chats | ms |\n|---|---|---|---|---|---|---|---|"


def row(file: Path) -> tuple[str, TemplateAnalysis]:
    template = file.read_text(encoding="utf-8")
    began = time.process_time()
    analysis = analyse(template)
    spent = (time.process_time() - began) * 1000
    thinking = f"{analysis.thinking.open} ({analysis.thinking.evidence})" if analysis.thinking else ""
    cells = [
        file.stem,
        f"{analysis.format.kind} ({analysis.source})" if analysis.format else "our words",
        analysis.tools,
        ", ".join(f"{name}: {verdict}" for name, verdict in analysis.limits.items()) or analysis.reason,
        thinking.replace("|", "\\|"),
        ", ".join(analysis.switches),
        " → ".join(str(sum(kept)) for kept in zip(*chats(template, analysis), strict=True)),
        f"{spent:.0f}",
    ]
    return f"| {' | '.join(cells)} |", analysis


def chats(template: str, analysis: TemplateAnalysis) -> Iterator[tuple[bool, bool]]:
    rendering = Rendering(template)
    for messages, words in CONVERSATIONS.values():
        for tools in (None, TOOLS):
            fitted = normalize(messages, tools, analysis.demands)
            yield shown(rendering, Normalized(messages, tools), words), shown(rendering, fitted, words)


def shown(rendering: Rendering, chat: Normalized, words: list[str]) -> bool:
    prompt: Any = rendering.render(chat.messages, chat.tools, prompt=True)
    left_out = " ".join(text for _, text in chat.left_out)
    return isinstance(prompt, str) and all(word in prompt or word in left_out for word in words)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(HEAD)
    found = []
    for file in sorted(Path(sys.argv[1]).glob("*.jinja")):
        line, analysis = row(file)
        print(line, flush=True)
        found.append(analysis)
    derived = sum(each.source == "template" for each in found)
    print(
        f"\n{len(found)} templates, {derived} forms derived, {sum(each.proved for each in found)} with every core probe"
    )


if __name__ == "__main__":
    main()
