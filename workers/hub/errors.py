"""What a download that fails says to the operator: what is missing, and what to do.

Rule: a sentence names no address with a query and no header, because those may hold a secret.
"""

import re

from shared.commands import typed
from workers.model.load_error import LoadError, first_line

_QUERY = re.compile(r"\?\S+")


class NoAnswer(Exception):
    """One connection brought nothing more; another one may."""


def unreachable(repository: str, why: str) -> LoadError:
    from huggingface_hub import constants

    return LoadError(
        f"{repository} is not whole on this disk and the hub cannot be reached at {constants.ENDPOINT} ({why}). Check "
        "the network and HTTPS_PROXY, name a mirror in HF_ENDPOINT, or bring the model here first with "
        f"`{_hf()} download {repository}`.",
        permanent=False,
    )


def _hf() -> str:
    """Without the folder of an absolute path: the sentence goes to clients, and would lose all before the last '/'."""
    command = typed("hf")
    return "hf" if command.startswith("/") else command


def silent(repository: str, why: str) -> LoadError:
    return LoadError(
        f"The download of {repository} does not go on: {why}. What has arrived is kept; check the network, and ask "
        "again to go on with it.",
        permanent=False,
    )


def disk_full(repository: str, left: int, free: int, floor: int) -> LoadError:
    return LoadError(
        f"The hub repository {repository} has {gb(left)} to fetch, and the disk of Hugging Face's cache has "
        f"{gb(free)} free, of which {gb(floor)} stay free. Free some, or name another disk in HF_HOME.",
        permanent=False,
    )


def wrong_size(repository: str, name: str, said: int, sent: int) -> LoadError:
    return LoadError(
        f"The hub says that {name} of {repository} has {said:,} bytes and sends {sent:,}: try again later, or name "
        "another mirror in HF_ENDPOINT.",
        permanent=False,
    )


def damaged(repository: str, name: str) -> LoadError:
    return LoadError(
        f"What arrived as {name} of {repository} is not what the hub has, and was removed: ask again.", False
    )


def refused(repository: str, status: int) -> LoadError:
    """By its HTTP status."""
    match status:
        case 401:
            reason = (
                "is private, or does not exist: check the name, and set HF_TOKEN to a token that may read it"
            )
        case 403:
            reason = "is not open to this token: accept its terms on huggingface.co and set HF_TOKEN"
        case _:
            reason = f"cannot be fetched: the hub answers {status}"
    return LoadError(f"The hub repository {repository} {reason}.", permanent=status in (401, 403, 404))


def failure(repository: str, error: BaseException) -> LoadError:
    """What any exception of the hub library, the network or the disk means."""
    from huggingface_hub import errors

    match error:
        case LoadError():
            return error
        case errors.GatedRepoError():
            reason = "asks for consent first: accept its terms on huggingface.co and set HF_TOKEN"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.RepositoryNotFoundError():
            reason = "does not exist, or is private: check the name, or set HF_TOKEN"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.RevisionNotFoundError():
            reason = "does not have the revision that mlx-server.toml names"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.HFValidationError():
            return LoadError(f"{repository!r} is not the name of a hub repository: {error}", permanent=True)
        case errors.HfHubHTTPError() if error.response.status_code in (401, 403):
            return refused(repository, error.response.status_code)
        case errors.HfHubHTTPError():
            return unreachable(repository, f"it answers: {said(error)}")
        case OSError():
            reason = "Check the network and the space on the disk; what has arrived is kept"
        case _:
            reason = "Ask again: what has arrived is kept"
    return LoadError(
        f"Downloading {repository} failed ({type(error).__name__}: {said(error)}). {reason}.", False
    )


def said(error: BaseException) -> str:
    return _QUERY.sub("", first_line(error))


def gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
