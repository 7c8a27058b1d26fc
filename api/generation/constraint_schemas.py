"""The fields by which every dialect's requests constrain the text, under the names of other servers.

guided_* and structured_outputs are vLLM's; regex and ebnf SGLang's; grammar llama.cpp's and TGI's; json_schema
llama.cpp's and SGLang's; format Ollama's.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag

from api.generation.schemas import MAX_ITEMS, Request, either

Text = Annotated[str, Field(min_length=1)]
Choices = Annotated[list[Text], Field(min_length=1, max_length=MAX_ITEMS)]
SchemaOrText = Annotated[
    Annotated[str, Tag("string")] | Annotated[dict[str, Any], Tag("object")],
    either("object", dict),
]


class StructuredOutputs(Request):
    BLANK: ClassVar = frozenset({"json", "regex", "grammar", "whitespace_pattern"})

    json_: SchemaOrText | None = Field(None, alias="json")
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: bool = False
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    structural_tag: Any = None


class TypedGrammar(Request):
    type: Literal["json", "json_schema", "regex"]
    value: SchemaOrText


class Constrained(Request):
    """At most one field constrains the text; the whitespace fields say what may stand between the parts of JSON."""

    BLANK: ClassVar = frozenset(
        {
            *("guided_json", "guided_regex", "guided_grammar", "guided_whitespace_pattern"),
            *("regex", "ebnf", "grammar", "json_schema", "format"),
        }
    )

    guided_json: SchemaOrText | None = None
    guided_json_object: bool = False
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    guided_whitespace_pattern: str | None = None
    structured_outputs: StructuredOutputs | None = None
    regex: Text | None = None
    ebnf: Text | None = None
    grammar: (
        Annotated[
            Annotated[Text, Tag("string")] | Annotated[TypedGrammar, Tag("object")],
            either("object", dict),
        ]
        | None
    ) = None
    json_schema: SchemaOrText | None = None
    format: SchemaOrText | None = None
