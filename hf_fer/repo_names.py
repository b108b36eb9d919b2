"""Names of repositories on the Hub."""

from __future__ import annotations

from .errors import FerError


def check_repo_name(repo: str) -> None:
    """Raises FerError where `repo` cannot be the name of a repository: `owner/name`, or a name of one's own."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise FerError(
            f"{str(repo)[:100]!r} is not the name of a repository; write it as owner/name, in letters, digits, '-', "
            "'_' and '.', at most 96 of them."
        ) from error
