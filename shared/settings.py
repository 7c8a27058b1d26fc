"""Every setting, in one frozen class: read once in each ``__main__`` and passed down.

Nothing below a ``__main__`` reads ``os.environ``. Sources, the first wins: options, environment (``MLX_SERVER_…``),
``.env``, ``mlx-server.toml``.
Durations are seconds, sizes bytes unless the name says otherwise.
"""

import os
import re
import sys
from collections.abc import Collection
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.api_keys import KeyRing, KeysUnusable, from_environment
from shared.commands import typed
from shared.config_file import ConfigError, ConfigFile, find
from shared.dotenv import NOT_FROM_A_FOLDER, Line, read_dotenv, unknown_names
from shared.dotenv import PREFIX as PREFIX
from shared.model_table import NAMES_A_MODEL, NOT_IF_FOUND, ModelTable, ReplicaRange, decoded
from shared.models import (
    EMBEDDED_EMBEDDER,
    EMBEDDED_MODEL,
    ModelSource,
    Registry,
    check_name,
    is_folder,
    listed,
    names_a_folder,
    parse_source,
)
from shared.settings_errors import SettingsError, explain

ENV_FILE = ".env"
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+")
_ORIGIN = re.compile(
    rf"[A-Za-z][A-Za-z0-9+.-]*://(?:{_HOST.pattern})(?::[0-9]+)?/?|(?!https?:)[A-Za-z][A-Za-z0-9+.-]*://\*"
)
_TLS = ("tls_certificate", "tls_key", "tls_ca")
_MAX_SOCKET_PATH = 100  # Linux allows 107 bytes, macOS about 103


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True, protected_namespaces=()
    )

    config: Path | None = Field(
        None,
        description="file with settings and models; else ./mlx-server.toml or one at home, if there is one",
    )
    host: str = Field("127.0.0.1", description="address the api listens on")
    allow_anyone: bool = Field(
        False, description="whether the api may listen beyond this machine, where nobody checks who asks"
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="keys that clients must show, comma-separated: KEY, NAME=KEY or NAME:admin=KEY; for containers",
    )
    api_keys_file: Path | None = Field(None, description="file with such keys, one in a line")
    keys_file: Path = Field(
        Path("~/.config/mlx-server/keys.json"),
        validate_default=True,
        description="digests of the keys that `mlx-server keys create` made",
    )
    tls_certificate: Path | None = Field(
        None, description="file of the certificate to serve https with, and those that signed it; PEM"
    )
    tls_key: Path | None = Field(None, description="file of its private key, if the certificate's has none")
    tls_ca: Path | None = Field(
        None, description="file of the authorities by which commands trust a server's certificate; PEM"
    )
    port: int = Field(8000, ge=1, le=65535, description="port the api listens on")
    available_models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("mlx-community/Llama-3.2-3B-Instruct-4bit", EMBEDDED_MODEL, EMBEDDED_EMBEDDER),
        description="models that may be asked for: ID, /folder or ID=/folder, comma-separated or a JSON list",
    )
    models: Annotated[dict[str, ModelTable], NoDecode] = Field(
        {},
        description="tables by model name, as [models] of the file has them; in the environment a JSON object",
    )
    default_model: str | None = Field(None, description="serves requests that name no model")
    max_cache_size_gb: float = Field(8.0, ge=1, le=128, description="memory budget of all workers together")

    min_stay: float = Field(
        10.0, ge=0, description="how long a model stays loaded at least before it makes room for another"
    )
    max_wait: float = Field(
        30.0, gt=0, description="how long requests wait at most until the turn of a model in their way ends"
    )

    spare_workers: int = Field(
        1,
        ge=0,
        le=8,
        description="processes with everything imported that wait for the next model to be loaded",
    )
    recycle_gb: float = Field(
        2.0,
        ge=0,
        description="an idle worker that has grown by so much since its load is replaced; 0: none is",
    )
    ttl: float = Field(0.0, ge=0, description="a model without a request for so long is unloaded; 0: none is")

    replicas: ReplicaRange = Field(
        "1", description="how many workers serve one model: a number, or a range such as 1-2, by what queues"
    )

    run_dir: Path | None = Field(
        None, description="sockets, locks and logs; by default one per user and port"
    )
    cache_dir: Path = Field(
        Path("~/.cache/mlx-server"), validate_default=True, description="converted models and caches"
    )
    download_silence: float = Field(
        30.0, gt=0, description="a download's connection without a byte for so long is replaced by a new one"
    )
    download_disk_floor_gb: float = Field(
        1.0, ge=0, description="what downloads leave free on the disk of Hugging Face's cache"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    blas: Literal["auto", "system", "wheel", "none"] = Field(
        "auto",
        description="on Linux: whose OpenBLAS computes; the system's first, then the wheel's, or MLX's own",
    )
    api_processes: int = Field(1, ge=1, le=64, description="api processes that share the port")
    worker_command: Annotated[tuple[str, ...], NoDecode] = Field(
        (sys.executable, "-m", "workers"), description="program the broker starts for a model; a JSON list"
    )

    max_batch_rows: int = Field(32, ge=1, le=1024, description="sequences decoded together by one worker")
    max_in_flight: int = Field(256, ge=1, le=65536, description="requests one worker holds at a time")
    queue_per_model: int = Field(256, ge=1, description="requests that wait for one model")
    queue_total: int = Field(512, ge=1, description="requests that wait in all")
    queue_age: float = Field(
        120.0,
        gt=0,
        description="how long a request may wait for a worker that is ready; five times as long for memory",
    )
    context_length: int | None = Field(
        None, ge=16, description="upper bound on every model's context, in tokens"
    )
    model_sampling: bool = Field(
        True,
        description="whether a model's generation_config.json says how to sample where a request does not",
    )
    prompt_cache_gb: float = Field(
        1.0, ge=0, description="memory in which each worker keeps prompts it has read, part of the budget"
    )
    prompt_disk_gb: float | None = Field(
        None, ge=0, description="disk for prompts that outlive a worker; 0: none; else up to 10, a tenth"
    )
    prompt_disk_dir: Path | None = Field(None, description="folder for them; else the cache's")
    prompt_cache_shared: bool = Field(
        False, description="whether clients with unlike API keys share what is kept of prompts"
    )
    special_tokens_in_text: bool = Field(
        False, description="whether messages may spell special tokens; else such words stay text"
    )
    speculation: Literal["auto", "on", "off"] = Field(
        "auto", description="guess tokens and verify several in one pass; auto: where it changes no bit"
    )
    decode_gap: float = Field(
        0.2, gt=0, description="how long running answers may pause for the prompts of new ones"
    )
    prefill_chunk: int | None = Field(
        None, ge=16, le=65536, description="most prompt tokens in one pass; else 128 on a CPU, 2048 on a GPU"
    )

    heartbeat_interval: float = Field(1.0, gt=0)
    heartbeat_timeout: float = Field(5.0, gt=0)
    stall_timeout: float = Field(
        30.0,
        gt=0,
        description="a busy engine without a step for so long is given up, or 5 of its slowest steps",
    )
    prepare_timeout: float = Field(
        30.0, gt=0, description="how long one request's chat template and tokenizer may take"
    )
    load_timeout: float = Field(120.0, gt=0, description="a load without progress for so long is given up")
    drain_timeout: float = Field(60.0, gt=0, description="how long a worker may finish what it has")
    orphan_grace: float = Field(60.0, gt=0, description="how long a worker lives without a broker")
    broker_timeout: float = Field(10.0, gt=0, description="how long a new request waits for a lost broker")
    resume_timeout: float = Field(
        60.0, gt=0, description="how long a running request waits for a lost broker"
    )
    first_token_silence: float = Field(
        10.0, gt=0, description="a stream's head is sent at the latest after this"
    )
    keepalive: float = Field(5.0, gt=0, description="a comment is sent on a silent stream this often")
    send_timeout: float = Field(60.0, gt=0, description="a client that reads nothing for so long is cut")
    # As large as Anthropic's API takes: histories bring pictures, of which the model is told that they were left out.
    max_body_bytes: int = Field(32 << 20, ge=1024, description="largest request body")
    response_store_bytes: int = Field(
        256 << 20, ge=0, description="what is kept of /v1/responses, the oldest go first; 0 keeps nothing"
    )

    # Who may ask over HTTP, and how much of it at a time.
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names clients may ask for, beside localhost and the host's own; * takes any"
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="web pages that may ask from a browser, as origins; * lets all of them"
    )
    body_timeout: float = Field(
        30.0, gt=0, description="a body has so long, and its size at 128 KiB a second"
    )
    bodies_bytes: int = Field(
        256 << 20,
        ge=1024,
        description="what all bodies may hold together while they come, in one api process",
    )
    unfinished_per_address: int = Field(
        256, ge=1, description="requests one address may have half sent; then the oldest are cut"
    )

    @field_validator(
        "available_models", "worker_command", "allowed_hosts", "cors_origins", "api_keys", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return listed(value) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _tables_are_models(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Where nobody says which models there are, they are those of the tables."""
        models = values.get("models")
        if isinstance(models, str):
            values = {**values, "models": decoded(models)}
        if isinstance(tables := values.get("models"), dict) and tables:
            for name in tables:
                check_name(name)
            values = {"available_models": tuple(tables), **values}
        return values

    @field_validator("available_models")
    @classmethod
    def _entries_are_models(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        if not entries:
            raise ValueError("names no model")
        ids = [parse_source(entry).id for entry in entries]
        if twice := {id for id in ids if ids.count(id) > 1}:
            raise ValueError(f"names {', '.join(sorted(twice))} twice")
        return entries

    @field_validator("worker_command")
    @classmethod
    def _names_a_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if not command:
            raise ValueError("names no program")
        return command

    @field_validator("api_keys")
    @classmethod
    def _entries_are_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            from_environment(key.get_secret_value())
        return keys

    @field_validator("allowed_hosts")
    @classmethod
    def _entries_are_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if host != "*" and not _HOST.fullmatch(host):
                raise ValueError(f"{host} is not a host's name, without http:// and port, or *")
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _entries_are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is not an origin such as https://chat.example.com or app://obsidian.md, *, null,"
                    " or all of one scheme that is not the web's, such as chrome-extension://*"
                )
        return origins

    @field_validator("config", mode="before")
    @classmethod
    def _empty_is_none(cls, path: Any) -> Any:
        return None if path == "" else path

    @field_validator("config", "cache_dir", "run_dir", "prompt_disk_dir", "api_keys_file", "keys_file", *_TLS)
    @classmethod
    def _expand(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else None

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        registry = self.registry  # raises what is wrong with it
        if self.default_model is not None and registry.resolve(self.default_model) is None:
            raise ValueError(f"default_model {self.default_model!r} is not one of available_models")
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_key stands alone: tls_certificate names the certificate that it belongs to")
        if len(os.fsencode(self.api_socket)) > _MAX_SOCKET_PATH:
            raise ValueError(f"run_dir {self.sockets_dir} is too long a path for a socket")
        return self

    def key_ring(self) -> KeyRing:
        """The API keys that hold, which the api checks. Raises KeysUnusable."""
        try:
            lines = self.api_keys_file.read_text().splitlines() if self.api_keys_file else []
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise KeysUnusable(f"{self.api_keys_file} cannot be read: {why}") from None
        given = [entry.get_secret_value() for entry in self.api_keys]
        given += [line for line in lines if line.strip() and not line.startswith("#")]
        try:
            return KeyRing([from_environment(entry) for entry in given], self.keys_file)
        except ValueError as error:
            raise KeysUnusable(f"{self.api_keys_file}: {error}") from None

    def open_to_others(self, has_keys: bool) -> str | None:
        """Why the api does not listen at this address, if it does not: nobody would check who asks."""
        if has_keys or self.allow_anyone or is_loopback(self.host):
            return None
        return (
            f"{PREFIX}HOST: {self.host} can be reached from other machines, and nobody checks who asks. Make a key "
            f"with `{typed('mlx-server')} keys create NAME`; or, to let in anyone, say so with --allow-anyone or "
            f"{PREFIX}ALLOW_ANYONE=true; else leave it at 127.0.0.1."
        )

    @cached_property
    def registry(self) -> Registry:
        return Registry.of(self.available_models, self.models)

    @property
    def sources(self) -> dict[str, ModelSource]:
        """By model id, in the operator's order."""
        return dict(self.registry.sources)

    def table(self, model: str) -> ModelTable:
        return self.models.get(model, ModelTable())

    @property
    def sockets_dir(self) -> Path:
        """The run directory: made 0700 by the broker, and unlike for stacks on different ports."""
        return self.run_dir or _temporary_folder() / f"mlx-server-{os.getuid()}-{self.port}"

    @property
    def api_socket(self) -> Path:
        return self.sockets_dir / "api.sock"

    @property
    def worker_socket(self) -> Path:
        return self.sockets_dir / "worker.sock"

    @property
    def token_file(self) -> Path:
        """A secret that the broker makes and a worker shows; whoever can read it may serve."""
        return self.sockets_dir / "worker.token"

    @property
    def responses_file(self) -> Path:
        """Prompts and answers that clients asked to have kept."""
        return self.sockets_dir / "responses.sqlite"

    @property
    def state_file(self) -> Path:
        """Which workers a broker has, for the next one."""
        return self.sockets_dir / "state.json"

    @property
    def pulls_file(self) -> Path:
        """Which models an operator has asked to be fetched."""
        return self.sockets_dir / "pulls.json"

    @property
    def learned_file(self) -> Path:
        """What models were found to need of this machine."""
        return self.sockets_dir / "learned.json"

    @property
    def log_dir(self) -> Path:
        return self.sockets_dir / "log"


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _temporary_folder() -> Path:
    """Not ``tempfile.gettempdir()``: that is another folder whenever this one's disk is full."""
    return Path(os.environ.get("TMPDIR") or "/tmp").absolute()  # noqa: S108


def unusable_keys(settings: Settings) -> str | None:
    """Why the api cannot serve with its keys at its address, if it cannot."""
    try:
        return settings.open_to_others(settings.key_ring().required)
    except KeysUnusable as error:
        return f"API keys: {error}"


def load_settings(**overrides: Any) -> Settings:
    """For a ``__main__``: prints what is wrong, by key, and exits 2; names that are no setting get a warning."""
    try:
        settings = read_settings(**overrides)
    except SettingsError as error:
        print("mlx-server: these settings cannot be used:", *error.lines, sep="\n", file=sys.stderr)
        raise SystemExit(2) from None
    for unknown in unknown_names(_named(), Settings.model_fields):
        print(f"mlx-server: {unknown}", file=sys.stderr)
    return settings


def read_settings(**overrides: Any) -> Settings:
    """Also later, when the file may have changed. Raises SettingsError."""
    path = Path(ENV_FILE)
    lines = read_dotenv(path)
    if refused := [line.refused(path) for line in lines if _may_not(line)]:
        raise SettingsError(*refused)
    ours = (name.upper().removeprefix(PREFIX).lower() for name in _named() if _is_ours(name))
    return _settings(_config_file(overrides), {*overrides, *ours}, overrides)


def origins(**overrides: Any) -> dict[str, str]:
    """By setting where its value comes from: an option, a variable, a file or a default. Raises SettingsError."""
    file = _config_file(overrides)
    lines = read_dotenv(Path(ENV_FILE))
    said = (
        {}
        if file is None
        else {**file.server, **({"models": 0, "available_models": 0} if file.models else {})}
    )
    return {
        **dict.fromkeys(Settings.model_fields, "default"),
        **{name: file.at_line(name) for name in said if file},
        **({"config": "found"} if file else {}),
        **{line.setting: f"{ENV_FILE}, line {line.number}" for line in lines},
        **{name.upper().removeprefix(PREFIX).lower(): "environment" for name in os.environ if _is_ours(name)},
        **dict.fromkeys(overrides, "option"),
    }


def _named() -> list[str]:
    """The variables of the environment and of ``.env``."""
    return [*os.environ, *(PREFIX + line.setting for line in read_dotenv(Path(ENV_FILE)))]


def _is_ours(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _config_file(overrides: dict[str, Any]) -> ConfigFile | None:
    variables = {name.upper(): value for name, value in os.environ.items()}
    named = overrides.get("config", variables.get(f"{PREFIX}CONFIG"))
    home = variables.get("HOME")
    try:
        file = find(named if named is None else str(named), Path(), Path(home) if home else None)
    except ConfigError as error:
        raise SettingsError(*error.lines) from error
    if file and (wrong := list(file.objections(Settings.model_fields))):
        raise SettingsError(*wrong)
    return file


def _settings(file: ConfigFile | None, elsewhere: Collection[str], overrides: dict[str, Any]) -> Settings:
    values = dict(overrides)
    if file:
        said = {**file.server, **({"models": file.models} if file.models else {})}
        values = {
            **{name: value for name, value in said.items() if name not in elsewhere},
            **values,
            "config": file.path,
        }
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(*explain(error, file, elsewhere)) from error


def _may_not(line: Line) -> bool:
    """Models of the hub may be named there, folders and commands may not."""
    try:
        match line.setting:
            case "available_models":
                return names_a_folder(line.value)
            case "models":
                tables = decoded(line.value).values()
                return any(
                    any(is_folder(str(table.get(key))) for key in NAMES_A_MODEL)
                    or not table.keys().isdisjoint(NOT_IF_FOUND)
                    for table in tables
                    if isinstance(table, dict)
                )
            case _:
                return line.setting in NOT_FROM_A_FOLDER
    except ValueError:  # which Settings refuses, too
        return False
