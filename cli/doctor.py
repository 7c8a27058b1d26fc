"""``mlx-server doctor``: looks at this machine and these settings as a server would, and says what to do.

Rule 1: nothing is started, downloaded or changed; what is written to try a folder is removed.
Rule 2: each finding that is not well names its remedy. The exit code is 1 when something keeps a server from serving.
"""

import json
import platform
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import psutil
from rich.console import Console
from rich.table import Column, Table

from cli import claim, probe
from cli.messages import what_computes
from cli.models.wrong import wrong_models
from cli.refusal import FAILED
from shared.certificate import CertificateUnusable, proved
from shared.commands import typed
from shared.files import FILES_NEEDED
from shared.settings import PREFIX, Settings, is_loopback, load_settings, unusable_keys

State = Literal["well", "care", "wrong"]
HUB_WITHIN = 3.0  # seconds
RENEW_WITHIN = timedelta(days=14)
ROOM = 5 << 30  # bytes of disk, below which a model of some billions of weights does not fit
_COLOURS = {"well": "green", "care": "yellow", "wrong": "red"}


@dataclass(frozen=True)
class Finding:
    """``care``: a server starts, and something will not work or be slow. ``wrong``: none starts, or none serves."""

    subject: str
    state: State
    found: str
    remedy: str = ""


def doctor(options: Mapping[str, Any], *, as_json: bool) -> int:
    """Prints the findings. Returns the exit code; settings that cannot be read exit 2 before."""
    settings = load_settings(**options)
    findings = list(examine(settings))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        _print(findings)
    return FAILED if any(finding.state == "wrong" for finding in findings) else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """All findings, the machine's first."""
    looks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python,
        _mlx,
        _memory,
        _files,
        _run_dir,
        _port,
        _cache,
        _models,
        _keys,
        _certificate,
        _hub,
    )
    for look in looks:
        yield from look(settings)


def _python(settings: Settings) -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        yield Finding("python", "wrong", found, "MLX needs Apple silicon, and a Python that is no x86 one")
    else:
        yield Finding("python", "well", found)


def _mlx(settings: Settings) -> Iterator[Finding]:
    try:
        found = f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}"
        computes = what_computes(settings)
    except (PackageNotFoundError, ImportError) as error:
        yield Finding("mlx", "wrong", str(error), "install the server's packages again")
    else:
        yield Finding("mlx", "well" if computes.fast else "care", f"{found}. {computes.sentence}")


def _memory(settings: Settings) -> Iterator[Finding]:
    memory, budget = psutil.virtual_memory(), settings.max_cache_size_gb
    found = f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} free; the budget is {budget:g} GB"
    remedy = f"set {PREFIX}MAX_CACHE_SIZE_GB to what models may take together"
    if budget * 1e9 > memory.total:
        yield Finding("memory", "wrong", found, remedy)
    else:
        enough = budget * 1e9 <= memory.available
        yield Finding(
            "memory", "well" if enough else "care", found, "" if enough else f"{remedy}, or free some"
        )


def _files(settings: Settings) -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_NEEDED:
        yield Finding(
            "open files", "wrong", f"at most {hard}", f"raise the limit to {FILES_NEEDED} or more: ulimit -Hn"
        )
    else:
        yield Finding(
            "open files", "well", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}"
        )


def _run_dir(settings: Settings) -> Iterator[Finding]:
    """A server that runs there holds it."""
    if _is_running(settings):
        yield Finding("run directory", "well", f"{settings.sockets_dir}, in use by the server on this port")
        return
    folder = settings.sockets_dir
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        claim.claim_run_dir(settings.sockets_dir).close()
    except claim.Refusal as refusal:
        yield Finding("run directory", "wrong", str(refusal))
        return
    if missing:
        shutil.rmtree(missing[-1])
    yield Finding("run directory", "well", str(settings.sockets_dir))


def _port(settings: Settings) -> Iterator[Finding]:
    where = f"{settings.host}:{settings.port}"
    if _is_running(settings):
        yield Finding("port", "well", f"an mlx-server answers at {where}")
        return
    try:
        claim.check_port(settings.host, settings.port)
    except claim.Refusal as refusal:
        yield Finding("port", "wrong", str(refusal))
    else:
        yield Finding("port", "well", f"{where} is free")


def _is_running(settings: Settings) -> bool:
    answer = probe.get(settings, "/", timeout=1.0)
    return answer is not None and b'"mlx-server"' in answer.body


def _cache(settings: Settings) -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    for folder in (settings.cache_dir, Path(HF_HUB_CACHE)):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
            free = shutil.disk_usage(there).free
        except OSError as error:
            yield Finding(
                "cache",
                "wrong",
                f"{folder}: {error.strerror}",
                f"free its disk, or set {PREFIX}CACHE_DIR or HF_HOME",
            )
            continue
        found = f"{folder}, {free / 1e9:.0f} GB free"
        roomy = free >= ROOM
        yield Finding(
            "cache",
            "well" if roomy else "care",
            found,
            "" if roomy else "make room before you download models",
        )


def _models(settings: Settings) -> Iterator[Finding]:
    wrong = list(wrong_models(settings))
    for sentence in wrong:
        yield Finding("models", "wrong", sentence, "correct the name, or leave it out")
    if not wrong:
        yield Finding("models", "well", ", ".join(settings.registry.names))


def _keys(settings: Settings) -> Iterator[Finding]:
    if why := unusable_keys(settings):
        yield Finding("API keys", "wrong", why)
    elif settings.key_ring().required:
        yield Finding("API keys", "well", "clients must show one")
    elif settings.allow_anyone:
        remedy = f"make a key: {typed('mlx-server')} keys create NAME"
        yield Finding("API keys", "care", "none, and others may connect: nobody checks who asks", remedy)
    else:
        yield Finding("API keys", "well", "none: whoever is on this machine is served")


def _certificate(settings: Settings) -> Iterator[Finding]:
    try:
        found = proved(settings)
    except CertificateUnusable as error:
        yield Finding("certificate", "wrong", str(error))
        return
    if found is None:
        if is_loopback(settings.host):
            yield Finding("certificate", "well", "none: nothing leaves this machine")
        else:
            remedy = f"set {PREFIX}TLS_CERTIFICATE, or let a proxy with TLS stand before it"
            yield Finding("certificate", "care", "none: keys and prompts travel as they are", remedy)
        return
    said = f"for {', '.join(found.names) or 'no name'}, until {found.until:%Y-%m-%d}"
    soon = found.until - datetime.now(UTC) < RENEW_WITHIN
    yield Finding(
        "certificate", "care" if soon else "well", said, "renew it; the server takes it up" if soon else ""
    )


def _hub(settings: Settings) -> Iterator[Finding]:
    if all(source.kind != "hub" for source in settings.sources.values()):
        yield Finding("hub", "well", "no model comes from it")
        return
    from huggingface_hub.constants import ENDPOINT, is_offline_mode

    if is_offline_mode():
        yield Finding(
            "hub", "care", "HF_HUB_OFFLINE is set: nothing is downloaded", "unset it to download models"
        )
        return
    where = urlsplit(getproxies().get("https") or ENDPOINT)
    port = where.port or (443 if where.scheme == "https" else 80)
    try:
        socket.create_connection((where.hostname or "", port), HUB_WITHIN).close()
    except OSError as error:
        why = error.strerror or str(error)
        remedy = "models that are on this machine already work; for others see to the network, a proxy or HF_ENDPOINT"
        yield Finding("hub", "care", f"{where.hostname} cannot be reached: {why}", remedy)
    else:
        yield Finding("hub", "well", f"{where.hostname} can be reached")


def _print(findings: list[Finding]) -> None:
    table = Table("", "", Column(overflow="fold"), box=None, pad_edge=False, show_header=False)
    for finding in findings:
        colour = _COLOURS[finding.state]
        table.add_row(f"[{colour}]{finding.state}[/]", finding.subject, _escaped(finding.found))
        if finding.remedy:
            table.add_row("", "", f"→ {_escaped(finding.remedy)}")
    Console(highlight=False).print(table)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
