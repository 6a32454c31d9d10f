"""The token that requests carry where a server demands one."""

from __future__ import annotations

from pathlib import Path

from trueint8.errors import ConfigError


def read_token(file: str | None) -> bytes | None:
    """Return the token in a file; None without a file.

    Raises:
        ConfigError: If the file cannot be read, or holds no token.
    """
    if file is None:
        return None
    try:
        token = Path(file).read_bytes().strip()
    except OSError as err:
        raise ConfigError(
            f"--token-file {file}: {err.strerror}", fix="pass a file that can be read"
        ) from err
    if not token or not all(33 <= byte < 127 for byte in token):
        raise ConfigError(
            f"--token-file {file} holds no token of printable ASCII characters",
            fix="python -c 'import secrets; print(secrets.token_urlsafe())' > token.txt",
        )
    return token
