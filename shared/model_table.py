"""What an operator may say of one model: the keys of a table ``[models."NAME"]``, checked.

Each key takes effect somewhere.
"""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from shared.hosting import ENDPOINTS, Endpoint
from shared.operators_files import check_python, template_in

MOST_REPLICAS = 64
_REPLICAS = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?", re.ASCII)

Key = tuple[str | int, ...]


class Replicas(NamedTuple):
    """How many workers a loaded model has: ``least`` as far as there is memory, ``most`` while requests queue."""

    least: int = 1
    most: int = 1

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


def replicas_of(text: str) -> Replicas:
    """``2``, or ``1-2``. Raises ValueError."""
    match = _REPLICAS.fullmatch(text)
    least = int(match[1]) if match else 0
    most = int(match[2] or least) if match else 0
    if not 1 <= least <= most <= MOST_REPLICAS:
        raise ValueError(
            f"{text!r} is not a number of workers from 1 to {MOST_REPLICAS}, such as 2, nor a range such as 1-2"
        )
    return Replicas(least, most)


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked(text: str) -> str:
    return str(replicas_of(text))


ReplicaRange = Annotated[str, BeforeValidator(_as_text), AfterValidator(_checked)]
"""A number, or a range as text."""


class WrongTable(ValueError):
    """``key``: where in the tables, so that the file's line can be named."""

    def __init__(self, key: Key, message: str) -> None:
        super().__init__(message)
        self.key = key


class SamplingDefaults(BaseModel):
    """How tokens are chosen where a request does not say; they win over the model's generation_config.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=0, lt=1 << 31)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, gt=0, le=2, allow_inf_nan=False)

    def said(self) -> dict[str, float]:
        """Those that were given, by name."""
        return self.model_dump(exclude_none=True)


class HostingKeys(BaseModel):
    """How another server is run as the worker of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    serve: tuple[str, ...] = Field(
        (),
        description="the command of another OpenAI-compatible server that answers for this model, as a list; "
        "`{port}` in it, or in `env`, is the port it has to listen at",
    )
    env: dict[str, str] = Field({}, description="with `serve`: what its environment has beside this server's")
    cwd: str | None = Field(
        None, min_length=1, description="with `serve`: the folder it is started in; else this server's"
    )
    ready: str | None = Field(
        None,
        pattern="^/",
        description="with `serve`: the path that answers once it can serve; else `/health`, or `/v1/models` where that "
        "is not known",
    )
    ready_status: int = Field(
        200, ge=200, le=499, description="with `serve`: the status by which `ready` says so"
    )
    ready_timeout: float = Field(
        300,
        gt=0,
        allow_inf_nan=False,
        description="with `serve`: seconds without a line in its log after which its start has failed",
    )
    model_name: str | None = Field(
        None,
        min_length=1,
        description="with `serve`: what it calls the model; else the one name that its `/v1/models` lists, or the "
        "name here",
    )
    endpoints: tuple[Endpoint, ...] = Field(
        (), description=f"with `serve`: which of {', '.join(ENDPOINTS)} it has; else it is asked"
    )
    concurrency: int = Field(8, ge=1, le=4096, description="with `serve`: requests it gets at once")
    stop_signal: Literal["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"] = Field(
        "SIGTERM", description="with `serve`: the signal that ends it; SIGKILL follows after ten seconds"
    )


_NOT_HOSTED = (
    "source",
    "revision",
    "context_length",
    "truncate",
    "defaults",
    "chat_template",
    "draft",
    "python",
    "allow_code",
)  # its own server decides these


class ModelTable(HostingKeys):
    source: str | None = Field(
        None,
        description="where it comes from: `org/name` of the hub, a folder (`/…`, `~/…`, `./…`, from the file's folder "
        "on), or `embedded`; without it, what the name alone means",
    )
    revision: str | None = Field(
        None, min_length=1, description="branch, tag or commit of a hub repository; else its main branch"
    )
    aliases: tuple[str, ...] = Field(
        (),
        description="other names that may be asked for: `gpt-4o`, or a pattern in which `*` is any text: `claude-*`",
    )
    context_length: int | None = Field(None, ge=16, description="upper bound on its context, in tokens")
    truncate: bool = Field(
        False,
        description="of embedding models and rerankers: a text longer than the model reads is cut there, not refused",
    )
    pinned: bool = Field(
        False, description="never makes room for another model; its memory is reserved before it is loaded"
    )
    ttl: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="seconds without a request after which it is unloaded, 0: never; else `MLX_SERVER_TTL`",
    )
    replicas: ReplicaRange | None = Field(
        None,
        description="how many workers serve it: a number, or a range such as `1-2`, in which it grows while requests "
        "queue; else `MLX_SERVER_REPLICAS`",
    )
    preload: bool = Field(
        False,
        description="loaded when the server starts, if there is memory for it without unloading another",
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="memory it needs, in place of what is measured and learned; of a hosted model the first guess",
    )
    chat_template: Path | None = Field(
        None,
        description="file with the chat template that is used in place of the model's own, from the file's folder on; "
        "read when the model is loaded",
    )
    draft: str | None = Field(
        None,
        min_length=1,
        description="a smaller model with the same tokenizer that guesses next tokens: `org/name` of the hub, on this "
        "disk already, or a folder as in `source`; it changes no answer, and its memory counts as the model's",
    )
    python: Path | None = Field(
        None,
        description="interpreter of this model's worker, such as `/venvs/other/bin/python`, in which mlx-server is "
        "installed with another mlx; no spare process is used for it",
    )
    allow_code: bool = Field(
        False,
        description="whether Python code in its repository may be fetched and run, as this user; only with a "
        "`revision` that is a commit",
    )
    defaults: SamplingDefaults = Field(
        SamplingDefaults(),
        description=f"table of {', '.join(f'`{name}`' for name in SamplingDefaults.model_fields)} for requests that do "
        "not say them; they win over the model's `generation_config.json`",
    )

    @model_validator(mode="after")
    def _pinned_stays(self) -> "ModelTable":
        if self.pinned and self.ttl:
            raise ValueError("a pinned model stays loaded, so it has no ttl: leave one of the two out")
        return self

    @model_validator(mode="after")
    def _hosted_or_not(self) -> "ModelTable":
        if not self.serve:
            if said := sorted(self.model_fields_set & set(HostingKeys.model_fields) - {"serve"}):
                raise ValueError(f"{said[0]} is of a model with `serve` only, which this is not")
            return self
        if said := [key for key in _NOT_HOSTED if key in self.model_fields_set]:
            raise ValueError(
                f"{said[0]} is for the server that `serve` starts to decide; leave one of the two out"
            )
        if not any("{port}" in text for text in (*self.serve, *self.env.values())):
            raise ValueError("serve has to say {port} where its server reads the port to listen at")
        return self

    @field_validator("chat_template")
    @classmethod
    def _is_a_template(cls, path: Path | None) -> Path | None:
        if path is not None:
            template_in(path := path.expanduser().absolute())
        return path

    @field_validator("python")
    @classmethod
    def _is_a_program(cls, path: Path | None) -> Path | None:
        """Links stay: a virtual environment is known by the place of its link."""
        if path is not None:
            check_python(path := path.expanduser().absolute())
        return path

    @field_validator("aliases", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


NAMES_A_MODEL = ("source", "draft")  # of the hub, or in a folder
NAMES_A_FILE = ("chat_template", "python")
NOT_IF_FOUND = (*NAMES_A_FILE, "allow_code", "serve")  # in a file that the operator did not name


def decoded(tables: str) -> dict[str, Any]:
    """Tables from an environment variable, where they are a JSON object. Raises ValueError."""
    try:
        found = json.loads(tables)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"models is a JSON object of tables by model name, and this is none: {error}"
        ) from error
    if not isinstance(found, dict):
        raise ValueError("models is a JSON object of tables by model name")
    return found


def unknown_key(key: str, known: Mapping[str, object]) -> str:
    """What to say of a key that no table has."""
    near = get_close_matches(key, known, 1)
    return (
        f"there is no such key; did you mean {near[0]}?"
        if near
        else f"there is no such key; there are {', '.join(known)}"
    )


def known_keys(path: Key) -> Mapping[str, object]:
    """Those of the table that holds ``path``'s last key."""
    return SamplingDefaults.model_fields if "defaults" in path[2:-1] else ModelTable.model_fields
