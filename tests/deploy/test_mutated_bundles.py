"""A thousand changed bundles, of which none is loaded."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from deploy.bundle import Bundle, open_bundle
from deploy.signing import SIGNATURE, make_key, sign
from tests.deploy.mutating import FORGED, HONEST, linked_copy
from tests.deploy.running import run_here
from trueint8.errors import IntegrityError

pytest.importorskip("cryptography", reason="signatures need cryptography")


@pytest.fixture(scope="module")
def signed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed bundle and the public key."""
    folder = tmp_path_factory.mktemp("signed")
    copy = Path(shutil.copytree(bundle.path, folder / "bundle"))
    public = make_key(folder / "k.pem")
    sign((copy / "manifest.json").read_bytes(), copy, folder / "k.pem")
    assert open_bundle(copy, require_signature=public)
    return copy, public


def _mutated(source: Path, folder: Path, draws: range) -> Iterator[tuple[str, bool, Path]]:
    """Yield the kind of change, whether hashes tell it, and the changed bundle."""
    kinds = (*HONEST, *FORGED)
    for number in draws:
        draw = Random(number)
        change = kinds[number % len(kinds)]
        home = folder / str(number)
        home.mkdir()
        copy = linked_copy(source, home / "bundle")
        change(copy, draw)
        same = _content(copy, but=SIGNATURE) == _content(source, but=SIGNATURE)
        yield change.__name__, change in HONEST and not same, copy
        shutil.rmtree(home)


def _content(folder: Path, but: str) -> dict[str, bytes | None]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        if p.is_file() and not p.is_symlink()
        else None
        for p in folder.rglob("*")
        if p.name != but or p.is_symlink()
    }


def _refused(source: Path, public: Path, folder: Path, draws: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    before = _content(source, but="")
    for kind, told_by_hashes, copy in _mutated(source, folder, draws):
        for key in (public, None) if told_by_hashes else (public,):
            try:
                open_bundle(copy, require_signature=key)
            except IntegrityError as err:
                assert err.problem and err.fix
            else:
                pytest.fail(f"a bundle was opened after {kind}, key {key}: {copy}")
        seen[kind] += 1
    assert _content(source, but="") == before
    return seen


def test_of_a_thousand_changed_bundles_none_is_loaded(
    signed: tuple[Path, Path], tmp_path: Path
) -> None:
    seen = _refused(*signed, tmp_path, range(1000, 2000))
    assert sum(seen.values()) == 1000
    assert min(seen.values()) >= 50


def test_commands_refuse_in_one_line(signed: tuple[Path, Path], tmp_path: Path) -> None:
    source, public = signed
    for _, _, copy in _mutated(source, tmp_path, range(15)):
        ended = run_here("verify", copy, "--require-signature", public, cwd=tmp_path)
        message = ended.refused(9)
        assert "\x1b" not in message and len(message) < 2000
