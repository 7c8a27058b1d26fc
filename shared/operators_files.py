"""Files and programs that an operator names for one model: its chat template, its Python.

They are checked when the settings are read, so that a mistake is an error at the start. Nothing of them is run here: a
template is parsed, and whether a Python can run a worker is found out by the model's inspection.
"""

import os
from pathlib import Path

MAX_TEMPLATE = 1 << 20  # characters; the largest known have 30,000


def template_in(path: Path) -> str:
    """The text of a chat template. Raises ValueError, in words for the operator."""
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_TEMPLATE + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no chat template: it is not UTF-8 at byte {error.start}") from None
    if len(text) > MAX_TEMPLATE:
        raise ValueError(f"{path} is no chat template: it has more than {MAX_TEMPLATE} characters")
    if wrong := _objection(text):
        raise ValueError(f"{path} is no chat template: {wrong}")
    return text


def _objection(text: str) -> str | None:
    """Jinja is imported only where a template is named."""
    from jinja2 import Environment, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, LoopControlExtension
    from jinja2.meta import find_undeclared_variables
    from jinja2.parser import Parser

    class Generation(Extension):
        """``{% generation %}`` marks what an assistant wrote, for training."""

        tags = {"generation"}

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(
                line
            )

    try:
        tree = Environment(extensions=[Generation, LoopControlExtension], autoescape=False).parse(text)  # noqa: S701
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deeply"
    return None if "messages" in find_undeclared_variables(tree) else "it never reads messages"


def check_python(path: Path) -> None:
    """Raises ValueError, in words for the operator."""
    if not path.is_file():
        raise ValueError(f"there is no program {path}")
    if not os.access(path, os.X_OK):
        raise ValueError(f"{path} may not be run")
