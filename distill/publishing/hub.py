"""Uploads to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from distill.config.errors import UserError


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Put a folder's files into the repository of that name, which is made if it is not there; returns its address.

    Raises UserError where nobody is logged in, or the hub cannot be reached or refuses.
    """
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
    except (
        HFValidationError,
        HTTPError,
        OSError,
    ) as error:  # a connection that fails is one or the other, by the library's version
        reason = str(error).strip() or type(error).__name__
        raise refused(f"cannot be uploaded ({reason.splitlines()[0]})") from error
    return str(address)
