"""Uploads to the Hugging Face hub."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from distill.config.errors import UserError, first_line
from distill.publishing.model_card.names import CARD, hub_name


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Upload a folder to a repository, which is created if needed, and return the repository's address."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, HTTPError

    def refused(reason: str) -> UserError:
        return UserError(f"--push-to-hub {name}: {reason}; {folder} is written")

    if huggingface_hub.get_token() is None:
        raise refused("there is no token of the hub; expected one from hf auth login, or in HF_TOKEN")
    try:
        api = huggingface_hub.HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    # A connection that fails is an HTTPError or an OSError, depending on the library's version.
    except (HFValidationError, HTTPError, OSError) as error:
        raise refused(f"cannot be uploaded ({first_line(error)})") from error
    return str(address)


def fetch_card(teacher: dict[str, Any]) -> None:
    """Put the card of a teacher on the hub into the hub's cache, from which its licence is read.

    Without a connection, or for a repository without a card, nothing is fetched.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError

    name = hub_name(teacher)
    if name is None:
        return
    with suppress(HTTPError, OSError, ValueError):
        hf_hub_download(name, CARD, revision=teacher.get("revision"))
