"""A signature is required, and nothing else than what its key signed is loaded."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import click
import pytest

import deploy
from deploy.bundle import Bundle, open_bundle
from deploy.commands import COMMANDS
from deploy.signing import SIGNATURE_BYTES, requiring_signatures
from tests.deploy.running import run_here
from trueint8.errors import ConfigError, IntegrityError

pytest.importorskip("cryptography", reason="signatures need cryptography")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys, ``a`` and ``b``."""
    folder = tmp_path_factory.mktemp("keys")
    for name in "ab":
        assert run_here("sign", "--key", folder / f"{name}.pem", "--new-key").code == 0
    return folder


@pytest.fixture
def signed(bundle_copy: Path, keys: Path) -> Path:
    ended = run_here("sign", bundle_copy, "--key", keys / "a.pem")
    assert ended.code == 0, ended.err
    assert open_bundle(bundle_copy).sha256 in ended.out
    return bundle_copy


def _rehash(folder: Path) -> None:
    """Write the hash of a manifest that was edited, as whoever edits it can."""
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    (folder / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def _edit(folder: Path) -> None:
    """Change a manifest so that it stays a sound one, and its hash."""
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"seed": content["seed"] + 1}))
    _rehash(folder)


def test_what_the_key_signed_is_loaded(signed: Path, keys: Path) -> None:
    public = keys / "a.pub.pem"
    for command in (
        ("inspect", signed),
        ("verify", signed),
        ("compare", signed, signed, "--layers"),
    ):
        ended = run_here(*command, "--require-signature", public, cwd=signed.parent)
        assert ended.code == 0, ended.err
    assert open_bundle(signed), "a signature that nobody asks for does no harm"
    with deploy.load(signed, require_signature=public) as session:
        assert session.inputs


def test_what_is_not_signed_is_refused(bundle: Bundle, keys: Path) -> None:
    public = keys / "a.pub.pem"
    ended = run_here("verify", bundle.path, "--require-signature", public)
    ended.refused(9, "is not signed", f"deploy sign {bundle.path}")
    with pytest.raises(IntegrityError, match="is not signed"):
        deploy.load(bundle.path, require_signature=public)


def test_another_key_is_refused(signed: Path, keys: Path) -> None:
    ended = run_here("verify", signed, "--require-signature", keys / "b.pub.pem")
    ended.refused(9, "signed with another key")


def test_a_change_with_all_hashes_made_good_is_refused(signed: Path, keys: Path) -> None:
    _edit(signed)
    assert open_bundle(signed), "without the signature nothing tells"
    ended = run_here("verify", signed, "--require-signature", keys / "a.pub.pem")
    ended.refused(9, "changed after it was signed")
    assert run_here("sign", signed, "--key", keys / "a.pem").code == 0
    assert open_bundle(signed, require_signature=keys / "a.pub.pem")


def test_every_byte_of_the_signature_counts(signed: Path, keys: Path) -> None:
    file, public = signed / "manifest.sig", keys / "a.pub.pem"
    raw = file.read_bytes()
    assert len(raw) == SIGNATURE_BYTES
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 0x10
        file.write_bytes(changed)
        with pytest.raises(IntegrityError):
            open_bundle(signed, require_signature=public)
    for other in (raw[:-1], raw + b"x", b""):
        file.write_bytes(other)
        with pytest.raises(IntegrityError, match="manifest.sig"):
            open_bundle(signed)


def test_a_signature_of_another_bundle_is_refused(
    signed: Path, bundle: Bundle, keys: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(bundle.path, tmp_path / "other"))
    _edit(other)
    shutil.copy(signed / "manifest.sig", other)
    with pytest.raises(IntegrityError, match="changed after it was signed"):
        open_bundle(other, require_signature=keys / "a.pub.pem")


def test_openssl_makes_keys_and_checks_signatures(bundle_copy: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    private, public = tmp_path / "k.pem", tmp_path / "p.pem"
    for line in (
        f"genpkey -algorithm ed25519 -out {private}",
        f"pkey -in {private} -pubout -out {public}",
    ):
        subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    assert run_here("sign", bundle_copy, "--key", private).code == 0
    assert open_bundle(bundle_copy, require_signature=public)
    (tmp_path / "s").write_bytes((bundle_copy / "manifest.sig").read_bytes()[32:])
    line = (
        f"pkeyutl -verify -pubin -inkey {public} -rawin -in {bundle_copy / 'manifest.json'} "
        f"-sigfile {tmp_path / 's'}"
    )
    subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    encrypted = tmp_path / "e.pem"
    line = f"pkey -in {private} -aes256 -passout pass:x -out {encrypted}"
    subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    run_here("sign", bundle_copy, "--key", encrypted).refused(2, "is encrypted", "openssl pkey")
    rsa = tmp_path / "rsa.pem"
    subprocess.run(["openssl", "genrsa", "-out", rsa, "2048"], check=True, capture_output=True)
    run_here("sign", bundle_copy, "--key", rsa).refused(2, "not Ed25519", "ed25519")


def test_keys_are_private_and_never_replaced(keys: Path) -> None:
    assert (keys / "a.pem").stat().st_mode & 0o777 == 0o600
    before = (keys / "a.pem").read_bytes()
    run_here("sign", "--key", keys / "a.pem", "--new-key").refused(2, "a.pem exists", "--new-key")
    assert (keys / "a.pem").read_bytes() == before
    assert sorted(p.name for p in keys.iterdir()) == ["a.pem", "a.pub.pem", "b.pem", "b.pub.pem"]


def test_what_is_no_key_is_named(signed: Path, keys: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.pem"
    odd.write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    for key in (odd, keys / "a.pem"):
        ended = run_here("verify", signed, "--require-signature", key)
        ended.refused(2, "holds no public key", "-pubout")
    run_here("verify", signed, "--require-signature", tmp_path / "no").refused(2, "cannot be read")
    run_here("sign", signed, "--key", keys / "a.pub.pem").refused(2, "holds no private key")
    run_here("sign", signed).refused(2, "no key given")
    run_here("sign", "--key", keys / "a.pem").refused(2, "no bundle given")


def test_a_changed_bundle_is_not_signed(bundle_copy: Path, keys: Path) -> None:
    (bundle_copy / "model.onnx").write_bytes(b"x")
    run_here("sign", bundle_copy, "--key", keys / "a.pem").refused(9, "model.onnx was changed")
    assert not (bundle_copy / "manifest.sig").exists()


def test_files_can_require_it(bundle: Bundle, keys: Path, tmp_path: Path) -> None:
    public = keys / "a.pub.pem"
    (tmp_path / "pyproject.toml").write_text(f"[tool.trueint8]\nrequire-signature = '{public}'\n")
    ended = run_here("inspect", bundle.path, cwd=tmp_path)
    ended.refused(9, "is not signed")
    (tmp_path / "pyproject.toml").write_text("[tool.trueint8]\nrequire-signature = 3\n")
    run_here("inspect", bundle.path, cwd=tmp_path).refused(2, "require-signature is 3")
    (tmp_path / "pyproject.toml").unlink()
    assert run_here("build", "--int8", "--print-config", cwd=tmp_path).code == 0


def test_the_requirement_ends_with_its_block(bundle: Bundle, keys: Path) -> None:
    with requiring_signatures(keys / "a.pub.pem"), pytest.raises(IntegrityError):
        open_bundle(bundle.path)
    assert open_bundle(bundle.path)
    with requiring_signatures(keys / "none.pem"), pytest.raises(ConfigError):
        open_bundle(bundle.path)


@pytest.mark.parametrize("name", COMMANDS.names())
def test_every_command_that_loads_a_bundle_can_require_it(name: str) -> None:
    command: click.Command = COMMANDS.load(name)
    shown = [str(p.metavar) for p in command.params if isinstance(p, click.Argument)]
    loads = name not in ("sign",) and any("BUNDLE" in m or m == "A B" for m in shown)
    has = any("--require-signature" in p.opts for p in command.params)
    assert has == loads
