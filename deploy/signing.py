"""Ed25519 signatures of bundles, over the manifest, which holds the hash of every other file.

``manifest.sig`` is 96 bytes: the public key, 32, which only tells errors apart, and the signature,
64, of the bytes of ``manifest.json`` as in RFC 8032, so that OpenSSL can check it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trueint8.artifacts import write_atomically
from trueint8.errors import ConfigError, IntegrityError, MissingDependency

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE = "manifest.sig"
SIGNATURE_BYTES = 96
_KEY_BYTES = 32
_LARGEST_PEM = 1 << 16

_required: Path | None = None


@contextmanager
def requiring_signatures(public: Path | None) -> Iterator[None]:
    """Refuse, in all threads of this process, bundles that a key has not signed.

    Args:
        public: The PEM file of the key; None asks for no signature.
    """
    global _required
    before, _required = _required, public
    try:
        yield
    finally:
        _required = before


def required_key() -> Path | None:
    """Return the key that bundles must be signed with, if there is one."""
    return _required


def sign(manifest: bytes, folder: Path, key: Path) -> None:
    """Write the signature of a manifest into its bundle, over one that is there.

    Raises:
        ConfigError: If the file holds no Ed25519 private key.
        StorageError: If the folder cannot be written.
    """
    private = _private_key(key)
    write_atomically(
        folder / SIGNATURE, private.public_key().public_bytes_raw() + private.sign(manifest)
    )


def check_signature(manifest: bytes, folder: Path, public: Path) -> None:
    """Refuse a manifest that a key has not signed.

    Args:
        manifest: Its bytes.
        folder: The bundle.
        public: PEM file of the key.

    Raises:
        IntegrityError: If there is no signature, or another key's, or of another manifest.
        ConfigError: If the file holds no Ed25519 public key.
    """
    from cryptography.exceptions import InvalidSignature

    key, file = _public_key(public), folder / SIGNATURE
    if not file.is_file():
        raise IntegrityError(
            f"{folder} is not signed, and a signature by {public} is required",
            fix=f"have it signed: deploy sign {folder} --key PRIVATE.pem",
        )
    raw = file.read_bytes()
    if raw[:_KEY_BYTES] != key.public_bytes_raw():
        raise IntegrityError(
            f"{folder} is signed with another key than {public}",
            fix="pass the public key of whoever signed it, if you trust them",
        )
    try:
        key.verify(raw[_KEY_BYTES:], manifest)
    except InvalidSignature as err:
        raise IntegrityError(
            f"{folder} was changed after it was signed, or its {SIGNATURE} was",
            fix="copy it again from where it came; if the change is yours, sign it again",
        ) from err


def make_key(path: Path) -> Path:
    """Write a new private key, readable by its owner only, and its public half beside it.

    Returns:
        The file of the public half: ``NAME.pub.pem`` for ``NAME.pem``.

    Raises:
        ConfigError: If one of the files exists.
        StorageError: If they cannot be written.
    """
    key_class = _library()
    public = path.with_name(f"{path.stem}.pub.pem")
    for file in (path, public):
        if file.exists() or file.is_symlink():
            raise ConfigError(f"{file} exists", fix="pass another --key, or leave out --new-key")
    from cryptography.hazmat.primitives import serialization as forms

    private = key_class.generate()
    text = private.private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    write_atomically(path, text, secret=True)
    half = private.public_key()
    write_atomically(
        public, half.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def _private_key(path: Path) -> Ed25519PrivateKey:
    key_class = _library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    fix = "pass one that `openssl genpkey -algorithm ed25519` made, or add --new-key"
    try:
        key = load_pem_private_key(_pem(path), password=None)
    except TypeError as err:
        raise ConfigError(
            f"{path} is encrypted", fix=f"decrypt it: openssl pkey -in {path} -out PLAIN.pem"
        ) from err
    except (ValueError, UnsupportedAlgorithm) as err:
        raise ConfigError(f"{path} holds no private key in PEM", fix=fix) from err
    if not isinstance(key, key_class):
        raise ConfigError(f"{path} holds a private key that is not Ed25519", fix=fix)
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    _library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    fix = "pass the public half: openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem"
    try:
        key = load_pem_public_key(_pem(path))
    except (ValueError, UnsupportedAlgorithm) as err:
        raise ConfigError(f"{path} holds no public key in PEM", fix=fix) from err
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path} holds a public key that is not Ed25519", fix=fix)
    return key


def _pem(path: Path) -> bytes:
    try:
        with path.expanduser().open("rb") as stream:
            return stream.read(_LARGEST_PEM)
    except OSError as err:
        raise ConfigError(
            f"the key {path} cannot be read: {err.strerror}", fix="pass a PEM file"
        ) from err


def _library() -> type[Ed25519PrivateKey]:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as err:
        raise MissingDependency(
            "signatures need the package cryptography, which is not installed",
            fix="pip install 'trueint8[sign]'",
        ) from err
    return Ed25519PrivateKey
