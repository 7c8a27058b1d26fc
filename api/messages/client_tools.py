"""The tools that Anthropic defines and the client runs, with their published schemas.

The versions of a tool differ in their commands. A tool that answers with pictures is refused by name.
"""

from typing import Any

from api.generation.refusals import unsupported
from api.messages.schemas import CustomTool, OtherTool

Schema = dict[str, Any]


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _whole(description: str) -> Schema:
    return {"type": "integer", "description": description}


_PATH = _text("The absolute path of a file or directory.")
_LINES = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 2,
    "maxItems": 2,
    "description": "Of view: the first and the last line to show, counted from 1; -1 is the end of the file.",
}
_EDITS: dict[str, Schema] = {
    "path": _PATH,
    "file_text": _text("Of create: the content of the new file."),
    "old_str": _text("Of str_replace: the text to replace, exactly as it stands there and only once."),
    "new_str": _text("Of str_replace: the text to put in its place."),
    "insert_line": _whole("Of insert: the line behind which the text is put; 0 is the beginning."),
    "insert_text": _text("Of insert: the text to put there."),
    "view_range": _LINES,
}


def _by_command(commands: list[str], properties: dict[str, Schema], required: list[str]) -> Schema:
    command = {"type": "string", "enum": commands, "description": "What to do."}
    return {
        "type": "object",
        "properties": {"command": command, **properties},
        "required": ["command", *required],
    }


_BASH = (
    "Runs a command in a shell that stays open from one call to the next.",
    {
        "type": "object",
        "properties": {
            "command": _text("The command to run. Needed unless the shell is restarted."),
            "restart": {"type": "boolean", "description": "True: the shell is started again."},
        },
    },
)
_COMMANDS = ["view", "create", "str_replace", "insert"]
_EDITOR = "Shows, creates and edits text files."
_MEMORY = (
    "Keeps notes in files below /memories, which last from one conversation to the next.",
    _by_command(
        [*_COMMANDS, "delete", "rename"],
        {
            **_EDITS,
            "old_path": _text("Of rename: the path as it is."),
            "new_path": _text("Of rename: the path to be."),
        },
        [],
    ),
)
_OLD_EDITS = {name: schema for name, schema in _EDITS.items() if name != "insert_text"} | {
    "new_str": _text("Of str_replace: the text to put in its place; of insert: the text to put there.")
}
_WITH_UNDO = (_EDITOR, _by_command([*_COMMANDS, "undo_edit"], _OLD_EDITS, ["path"]))
_WITHOUT_UNDO = (_EDITOR, _by_command(_COMMANDS, _EDITS, ["path"]))

# The first prefix of the type that fits -> the tool's default name and its schema.
_KNOWN: dict[str, tuple[str, tuple[str, Schema]]] = {
    "bash_": ("bash", _BASH),
    "text_editor_20241022": ("str_replace_editor", _WITH_UNDO),
    "text_editor_20250124": ("str_replace_editor", _WITH_UNDO),
    "text_editor_": ("str_replace_based_edit_tool", _WITHOUT_UNDO),
    "memory_": ("memory", _MEMORY),
}
_SCREENS = ("computer_",)


def client_tool(tool: OtherTool, path: str) -> CustomTool | None:
    """None for a tool that Anthropic's servers run. Raises UnsupportedParameter."""
    if tool.type.startswith(_SCREENS):
        raise unsupported(path, f"{tool.type[:64]} answers with pictures, and this model reads text only")
    if tool.type == "function":
        raise unsupported(f"{path}.type", "a tool has 'name' and 'input_schema' in this dialect")
    for beginning, (name, (description, schema)) in _KNOWN.items():
        if tool.type.startswith(beginning):
            return CustomTool(
                name=tool.name or name,
                description=description,
                input_schema=schema,
                defer_loading=tool.defer_loading,
            )
    return None
