"""References of a JSON schema into itself."""

from typing import Any

REFERENCES = 8  # followed from one to the next


def resolved(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    """Follows a reference into the tool's own schema; one that cannot be followed allows any value."""
    for _ in range(REFERENCES):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        found: Any = root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found.get(step) if isinstance(found, dict) else None
        schema = found
    return schema if isinstance(schema, dict) else {}
