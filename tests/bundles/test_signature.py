"""A signed bundle opens with the key of its maker, and with no other; OpenSSL agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.conftest import Exported, Outcome
from tests.required import skip_or_fail
from vae_export import load
from vae_export.artifact.certificate import read_certificate
from vae_export.bundles import open_bundle
from vae_export.bundles.archive import read_archive, write_archive
from vae_export.bundles.signature import public_key, sign
from vae_export.bundles.writer import pack
from vae_export.errors import InputError, IntegrityError

#: The first test vector of RFC 8032, section 7.1: a private key, and its signature of no bytes.
RFC_KEY = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_SIGNATURE = (
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
    "655141438e7a100b"
)


def private_pem(key: Ed25519PrivateKey | ed448.Ed448PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


KEY = private_pem(Ed25519PrivateKey.from_private_bytes(RFC_KEY))
OTHER = private_pem(Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture(scope="module")
def signed(mlp: Exported) -> bytes:
    certificate = read_certificate(mlp.artifact.certificate)
    return pack(mlp.artifact, certificate, name="small", formats=["onnx"], sign_key=KEY)


@pytest.fixture
def path(signed: bytes, tmp_path: Path) -> Path:
    (tmp_path / "signed.zip").write_bytes(signed)
    return tmp_path / "signed.zip"


def files_of(data: bytes) -> dict[str, bytes]:
    return {name: bytes(view) for name, view in read_archive(data, "good").items()}


def test_signature_is_that_of_rfc_8032() -> None:
    assert sign(b"", KEY).hex() == RFC_SIGNATURE


def test_signed_bundle_opens_with_the_key_of_its_maker(path: Path, mlp: Exported, signed: bytes) -> None:
    opened = open_bundle(path, verify_key=public_key(KEY))
    assert list(opened.files)[:3] == ["SHA256SUMS", "SHA256SUMS.sig", "manifest.json"]
    assert opened.signed_by is not None
    assert "SHA256SUMS.sig" not in bytes(opened.files["SHA256SUMS"]).decode()
    certificate = read_certificate(mlp.artifact.certificate)
    assert pack(mlp.artifact, certificate, name="small", formats=["onnx"], sign_key=KEY) == signed
    (path.parent / "key.pub").write_bytes(public_key(KEY))
    load(path, verify_key=path.parent / "key.pub").self_test().require()


def test_signature_does_not_change_the_identity(path: Path, mlp: Exported, tmp_path: Path) -> None:
    (tmp_path / "plain.zip").write_bytes(
        pack(mlp.artifact, read_certificate(mlp.artifact.certificate), name="small", formats=["onnx"])
    )
    plain, unchecked = open_bundle(tmp_path / "plain.zip"), open_bundle(path)
    assert plain.identity == unchecked.identity
    assert (plain.is_signed, unchecked.is_signed, unchecked.signed_by) == (False, True, None)


def without_signature(files: dict[str, bytes]) -> None:
    del files["SHA256SUMS.sig"]


def signed_by_another(files: dict[str, bytes]) -> None:
    files["SHA256SUMS.sig"] = sign(files["SHA256SUMS"], OTHER)


def signature_of_other_contents(files: dict[str, bytes]) -> None:
    files["SHA256SUMS.sig"] = sign(files["SHA256SUMS"] + b"\n", KEY)


def flipped(files: dict[str, bytes]) -> None:
    signature = files["SHA256SUMS.sig"]
    files["SHA256SUMS.sig"] = signature[:-1] + bytes([signature[-1] ^ 1])


def forged_contents(files: dict[str, bytes]) -> None:
    """Hashes that fit other contents, beside the signature of the former ones."""
    from vae_export.io.atomic import sha256

    files["LICENSE"] = b"Mine.\n"
    listed = [name for name in files if not name.startswith("SHA256SUMS")]
    files["SHA256SUMS"] = "".join(f"{sha256(files[name])}  {name}\n" for name in listed).encode()


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (
            without_signature,
            r"not signed: .*forged\.zip; expected a signature by the key [0-9a-f]{16}…, got no SHA256SUMS",
        ),
        (signed_by_another, "signature is not valid: .*; expected a signature by the key"),
        (signature_of_other_contents, "signature is not valid"),
        (flipped, "signature is not valid"),
        (forged_contents, "signature is not valid"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_forged_bundle_opens_without_a_key_only(
    signed: bytes, tmp_path: Path, forge: Callable[[dict[str, bytes]], None], said: str
) -> None:
    files = files_of(signed)
    forge(files)
    forged = tmp_path / "forged.zip"
    forged.write_bytes(write_archive(files))
    assert open_bundle(forged).signed_by is None
    with pytest.raises(IntegrityError, match=said):
        open_bundle(forged, verify_key=public_key(KEY))
    with pytest.raises(IntegrityError, match=said):
        load(forged, verify_key=public_key(KEY))


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(65)])
def test_signature_of_another_size_is_always_refused(signed: bytes, tmp_path: Path, signature: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(write_archive(files_of(signed) | {"SHA256SUMS.sig": signature}))
    with pytest.raises(IntegrityError, match=r"signature cannot be read: .*SHA256SUMS\.sig; expected 64 bytes"):
        open_bundle(tmp_path / "x.zip")


def test_signature_stands_behind_the_hashes(signed: bytes, tmp_path: Path) -> None:
    files = files_of(signed)
    files["SHA256SUMS.sig"] = files.pop("SHA256SUMS.sig")
    (tmp_path / "x.zip").write_bytes(write_archive(files))
    with pytest.raises(IntegrityError, match=r"files are out of order: .*expected SHA256SUMS\.sig, got manifest\.json"):
        open_bundle(tmp_path / "x.zip", verify_key=public_key(KEY))


def test_folder_is_not_signed(mlp: Exported) -> None:
    with pytest.raises(IntegrityError, match="not signed: .*; expected a signed bundle, got a folder"):
        load(mlp.folder, verify_key=public_key(KEY))


def test_unfit_key_is_refused(path: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(KEY, None)
    encrypted = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(InputError, match="got an encrypted key; decrypt it"):
        sign(b"", encrypted)
    other_kind = ed448.Ed448PrivateKey.generate()
    for key, said in (
        (b"", "key cannot be read: key; expected an Ed25519 private key in PEM; run: openssl genpkey"),
        (public_key(KEY), "key cannot be read"),
        (
            private_pem(other_kind),
            "wrong kind of key: key; expected an Ed25519 private key in PEM, got Ed448PrivateKey",
        ),
        (tmp_path / "missing", "key cannot be read: .*missing; got No such file"),
        (tmp_path, "key cannot be read: .*; got Is a directory"),
    ):
        with pytest.raises(InputError, match=said):
            sign(b"", key)
    public = other_kind.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for key, said in (
        (KEY, "expected an Ed25519 public key in PEM, got a private key; run: openssl pkey -in KEY -pubout"),
        (public, "wrong kind of key: .*got Ed448PublicKey"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "key cannot be read"),
    ):
        with pytest.raises(InputError, match=said):
            open_bundle(path, verify_key=key)


@pytest.mark.slow
def test_openssl_makes_keys_and_checks_signatures(mlp: Exported, tmp_path: Path) -> None:
    """The commands of docs/bundle-format.md."""
    if shutil.which("openssl") is None:
        skip_or_fail("openssl", "install OpenSSL 3")

    def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["openssl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem").returncode == 0
    assert openssl("pkey", "-in", "key.pem", "-pubout", "-out", "key.pub").returncode == 0
    certificate = read_certificate(mlp.artifact.certificate)
    data = pack(mlp.artifact, certificate, name="x", formats=["onnx"], sign_key=tmp_path / "key.pem")
    (tmp_path / "x.zip").write_bytes(data)
    assert open_bundle(tmp_path / "x.zip", verify_key=tmp_path / "key.pub").is_signed
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path)
    check = ("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pub", "-in", "SHA256SUMS")
    assert openssl(*check, "-sigfile", "SHA256SUMS.sig").returncode == 0
    (tmp_path / "SHA256SUMS").write_bytes(b"")
    assert openssl(*check, "-sigfile", "SHA256SUMS.sig").returncode != 0


@pytest.mark.slow
def test_only_a_key_needs_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cryptography" not in _modules_after(f"vae_export.load({str(path)!r})")
    monkeypatch.setattr("vae_export.system.extras.find_spec", lambda _: None)
    from vae_export.errors import MissingExtraError

    with pytest.raises(
        MissingExtraError, match=r"cryptography is not installed; run: pip install 'vae-export\[sign\]'"
    ):
        open_bundle(path, verify_key=public_key(KEY))


def _modules_after(code: str) -> set[str]:
    from tests.commands import ROOT

    run = [sys.executable, "-c", f"import sys, vae_export; {code}; print(*sys.modules)"]
    return set(subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=True).stdout.split())


def test_signing_and_checking_by_the_command_line(
    run_folder: Path, tmp_path: Path, invoke: Callable[..., Outcome]
) -> None:
    for name, pem in (("key", KEY), ("other", OTHER)):
        (tmp_path / f"{name}.pem").write_bytes(pem)
        (tmp_path / f"{name}.pub").write_bytes(public_key(pem))
    out, key = tmp_path / "signed.zip", tmp_path / "key.pub"
    made = invoke("bundle", "--run", run_folder, "--format", "onnx", "--out", out, "--sign", tmp_path / "key.pem")
    assert made.code == 0, made.err
    fingerprint = open_bundle(out, verify_key=key).signed_by
    assert f"signed by the key {fingerprint}" in made.out
    shown = invoke("inspect", out, "--verify-key", key)
    assert f"Signed by the key {fingerprint}." in shown.out
    assert "Its signature was not checked: pass --verify-key." in invoke("inspect", out).out
    document = json.loads(invoke("inspect", out, "--verify-key", key, "--json").out)
    assert (document["signed"], document["signed_by"]) == (True, fingerprint)
    sample = ("sample", "-n", "1", "--bundle", out, "--out", tmp_path / "one.npy")
    for command in (("inspect", out), sample, ("explore", "--bundle", out, "--no-open")):
        refused = invoke(*command, "--verify-key", tmp_path / "other.pub")
        assert refused.code == 4
        assert refused.err.startswith("vae-export: error: signature is not valid: ")
        assert refused.err.count("\n") == 1
    assert not (tmp_path / "one.npy").exists()
    assert invoke(*sample, "--verify-key", key).code == 0
    unfit = invoke("bundle", "--run", run_folder, "--out", tmp_path / "x.zip", "--sign", tmp_path / "key.pub")
    assert unfit.code == 3
    assert f"key cannot be read: {tmp_path / 'key.pub'}; expected an Ed25519 private key" in unfit.err
    assert not (tmp_path / "x.zip").exists()
    unbundled = invoke("sample", "-n", "1", "--run", run_folder, "--verify-key", key)
    assert (unbundled.code, "--verify-key goes with --bundle" in unbundled.err) == (2, True)
