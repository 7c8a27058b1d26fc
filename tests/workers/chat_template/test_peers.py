"""The documentation names every parser of the servers that keep lists of them, with how we read its family."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs" / "chat-templates.md"
PARSERS = {
    "vLLM": """deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4 cohere_command3 cohere_command4 ernie45 glm45 glm47
        granite-20b-fc granite granite4 hermes poolside_v1 hunyuan_a13b hy_v3 internlm jamba lfm2 kimi_k2 kimi_k3
        llama3_json llama4_json llama4_pythonic longcat mimo minimax_m2 minimax_m3 minicpm5 mistral olmo3 openai
        phi4_mini_json pythonic qwen3_coder qwen3_xml seed_oss step3 step3p5 inkling xlam gigachat3 functiongemma
        gemma4 apertus solar_open2 beam deepseek_v41 dots hf hy_v4 k2_horizon ling3 muse muse_glimmer musespark1x
        plamo3 qwen3_json step5""",
    "SGLang": """apertus2509 cohere_command4 deepseekv3 deepseekv31 deepseekv32 deepseekv4 dots glm glm45 glm47 gpt-oss
        k2_horizon kimi_k2 kimi_k3 lfm2 ling3 llama3 mimo minicpm5 mistral muse poolside_v1 pythonic qwen qwen25
        qwen3_coder spark25 step3 step3p5 minimax-m2 minimax-m3 trinity interns1 hermes hunyuan gigachat3 gigachat35
        gemma4 inkling""",
    "rapid-mlx": """cohere deepseek deepseek_v3 deepseek_v4_0731 deepseekv31 functionary gemma4 glm47 granite harmony
        hermes k2_horizon kimi lfm llama minimax mistral muse nemotron qwen3coder qwen seed_oss ui_tars xlam""",
}


@pytest.mark.parametrize("peer", PARSERS)
def test_no_parser_of_another_server_is_missing_from_the_documentation(peer: str) -> None:
    rows = [line.split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    (head,) = [row for row in rows if "rapid-mlx |" in row]
    column = [
        row[head.index(peer if peer != "rapid-mlx" else "rapid-mlx |")] for row in rows if len(row) == 5
    ]
    named = {name for cell in column for name in re.findall(r"`([^`]+)`", cell)}
    assert named == set(PARSERS[peer].split())
