"""Weights & Biases: for how long it is asked again, and why it does not answer, in a sentence."""

from __future__ import annotations

import os
import re

from pfstudy.errors import PfstudyError, first_line

_PATIENCE = {"RETRY_MAX": 5, "RETRY_WAIT_MIN_SECONDS": 2, "RETRY_WAIT_MAX_SECONDS": 20}
"""About a minute in all; wandb doubles the wait, and waits as long as the server asks for."""

_NO_NETWORK = re.compile(r"dial tcp|connection re|no such host|giving up|respond in time", re.I)
_NOT_THERE = re.compile(r"could not find|not found|permission|access denied", re.I)
_NOT_LOGGED_IN = re.compile(r"logged in|log in|api[ _]key|credentials", re.I)


def be_patient() -> None:
    """Have wandb try again for about a minute, not for hours; what the user has set stands.

    Call it before wandb reads its environment.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # what it would say, we say
    for kind in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
        for key, number in _PATIENCE.items():
            os.environ.setdefault(f"WANDB__{kind}_{key}", str(number))


def require_login(what: str) -> None:
    """Refuse to go on where nobody is logged in; wandb itself would ask for a key.

    Args:
        what: What cannot be done then, as the beginning of a sentence.

    Raises:
        PfstudyError: Nobody is, or the key is malformed.
    """
    import wandb

    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except (wandb.errors.AuthenticationError, ValueError) as error:
        text = first_line(error).rstrip(".")
        raise PfstudyError(
            f"{what}: the W&B key is malformed ({text}); mend WANDB_API_KEY or run `wandb login`."
        ) from None
    if not logged_in:
        raise PfstudyError(f"{what}: nobody is logged in to W&B; run `wandb login`.")


def explain_failure(what: str, error: Exception) -> PfstudyError:
    """Say why W&B could not be asked, in a sentence with the cure.

    Args:
        what: What could not be done, as the beginning of the sentence.
        error: Whatever wandb raised.
    """
    return PfstudyError(f"{what}: {reason_of(error)}.")


def reason_of(error: Exception) -> str:
    """Why W&B could not be asked, and what to do, without a full stop."""
    status, text = status_of(error), str(error)
    said = first_line(error).strip().removesuffix(".")
    if status == 429:
        return "W&B takes no more requests for now (rate limit); try again in some minutes"
    if status is not None and status >= 500:
        return f"W&B is out of order (HTTP {status}); try again later"
    if status is None and _NO_NETWORK.search(text):
        detail = text.splitlines()[-1].rpartition("dial ")[2].strip('". ')
        return f"W&B does not answer ({detail}); look whether there is a network"
    if status == 401 or (status is None and _NOT_LOGGED_IN.search(text)):
        return f"W&B does not know the key ({said}); run `wandb login --relogin`"
    if status in (403, 404) or _NOT_THERE.search(text):
        return (
            f"there is no such project, or you may not enter it ({said}); give ENTITY/PROJECT as "
            "in its address"
        )
    return said


def status_of(error: BaseException) -> int | None:
    """The status code of the server's answer; ``None`` where there was none, or all was well."""
    given = getattr(getattr(error, "response", None), "http_status", 0)
    if given:
        return int(given)
    cause = error.__cause__ or getattr(error, "exc", None)
    if cause is not None:
        return status_of(cause)
    found = re.search(r"\bHTTP (\d{3})\b", str(error))  # after the last of several tries
    return int(found[1]) if found else None
