"""Sign a bundle's list of hashes with Ed25519 (RFC 8032), and check a signature with a public key.

docs/bundle-format.md, section 2, is the specification. Only this module needs the extra `sign`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from vae_export.errors import InputError, IntegrityError
from vae_export.io.atomic import sha256
from vae_export.system.extras import require

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: The name of the signature in a bundle, and its size in bytes.
SIGNATURE, SIGNATURE_SIZE = "SHA256SUMS.sig", 64
#: A key: the path of a PEM file, or the bytes of one.
Key: TypeAlias = str | Path | bytes
#: The largest key file in bytes. An Ed25519 key has about 120.
_KEY_LIMIT = 1 << 16


def sign(sums: bytes, key: Key) -> bytes:
    """Sign a list of hashes; equal arguments give equal bytes.

    Args:
        sums: the bytes of SHA256SUMS.
        key: an Ed25519 private key in PEM (PKCS #8), not encrypted.

    Returns:
        The signature, 64 bytes.

    Raises:
        InputError: the key cannot be read.
        MissingExtraError: the package cryptography is not installed.
    """
    return _private_key(key).sign(sums)


def signing_key(key: Key) -> bytes:
    """Read a private key once, as it may come from a pipe, and check it. Call this before long work.

    Args:
        key: as for `sign`, or the path of its file.

    Returns:
        The bytes of the key.

    Raises:
        VaeExportError: what `sign` raises; it names the file.
    """
    data = key if isinstance(key, bytes) else read_key(key)
    _private_key(data, None if data is key else key)
    return data


def public_key(key: Key, where: object = None) -> bytes:
    """Return the public key of a private key, as a PEM file.

    Args:
        key: as for `sign`.
        where: where the bytes of the key come from, for messages.

    Returns:
        The bytes of the PEM file.

    Raises:
        VaeExportError: what `sign` raises.
    """
    private = _private_key(key, where)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def check_signature(sums: bytes, signature: bytes | None, key: Key, where: Path | str) -> str:
    """Check that the owner of a key has signed a list of hashes.

    Args:
        sums: the bytes of SHA256SUMS.
        signature: the bytes of its signature; None for a bundle without one.
        key: the Ed25519 public key in PEM.
        where: the path of the bundle, for messages.

    Returns:
        The fingerprint of the key: the SHA-256 of its DER form, as 64 hexadecimal digits.

    Raises:
        IntegrityError: there is no signature, or the owner of this key did not make it.
        InputError: the key cannot be read.
        MissingExtraError: the package cryptography is not installed.
    """
    public = _public_key(key)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    fingerprint = sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    expected = f"a signature by the key {fingerprint[:16]}…"
    if signature is None:
        raise IntegrityError("not signed", where=where, expected=expected, got=f"no {SIGNATURE}")
    try:
        public.verify(signature, sums)
    except InvalidSignature as error:
        got = "one by another key, or of other contents"
        do = "ask whoever gave it to you"
        raise IntegrityError("signature is not valid", where=where, expected=expected, got=got, do=do) from error
    return fingerprint


def _private_key(key: Key, where: object = None) -> Ed25519PrivateKey:
    require("sign")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data, name = _read(key)
    where = where or name
    expected, do = "an Ed25519 private key in PEM", "run: openssl genpkey -algorithm ed25519"
    try:
        loaded = load_pem_private_key(data, password=None)
    except TypeError as error:
        do = "decrypt it for this command: --sign <(openssl pkey -in KEY)"
        raise InputError("key cannot be read", where=where, got="an encrypted key", do=do) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError("key cannot be read", where=where, expected=expected, do=do) from error
    if not isinstance(loaded, Ed25519PrivateKey):
        raise InputError("wrong kind of key", where=where, expected=expected, got=type(loaded).__name__, do=do)
    return loaded


def _public_key(key: Key) -> Ed25519PublicKey:
    require("sign")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    data, where = _read(key)
    expected, do = "an Ed25519 public key in PEM", "run: openssl pkey -in KEY -pubout"
    try:
        loaded = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        got = "a private key" if b"PRIVATE KEY" in data else None
        raise InputError("key cannot be read", where=where, expected=expected, got=got, do=do) from error
    if not isinstance(loaded, Ed25519PublicKey):
        raise InputError("wrong kind of key", where=where, expected=expected, got=type(loaded).__name__, do=do)
    return loaded


def read_key(path: str | Path) -> bytes:
    """Return the bytes of a key file, which may be a pipe; raise `InputError` if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_KEY_LIMIT)
    except OSError as error:
        raise InputError("key cannot be read", where=path, got=error.strerror) from error


def _read(key: Key) -> tuple[bytes, str]:
    """Return the bytes of a key, and its name for messages."""
    return (key, "key") if isinstance(key, bytes) else (read_key(key), str(key))
