"""Shared secrets at rest (store/sealing.py)."""

import itertools
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.env import Env
from cmpd.errors import ConfigError, StoreError
from cmpd.store.sealing import Sealer

SECRET = b"a shared secret"
sealer = Sealer(bytes(range(32)), Env())


def counting() -> Env:
    numbers = itertools.count(1)
    return Env(random=lambda length: next(numbers).to_bytes(length))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sealing") / "sealing.json"
    Sealer.create(path, b"passphrase", Env())
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, written: bytes) -> Path:
    path = tmp_path / "sealing.json"
    path.write_bytes(written)
    return path


@given(st.binary(max_size=200), st.text(st.characters(exclude_categories=["Cs"]), max_size=64))
def test_what_is_sealed_opens_again(secret: bytes, reference: str) -> None:
    blob = sealer.seal(secret, reference)
    assert sealer.open(blob, reference) == secret
    assert len(blob) == len(secret) + 29


def test_a_secret_is_sealed_differently_each_time_and_never_in_clear() -> None:
    first, second = sealer.seal(SECRET, "device-1"), sealer.seal(SECRET, "device-1")
    assert first != second
    assert SECRET not in first


def test_a_secret_opens_for_its_reference_value_only() -> None:
    blob = sealer.seal(SECRET, "device-1")
    for other in ("device-2", "device-1 ", ""):
        with pytest.raises(StoreError, match="sealed secret of"):
            sealer.open(blob, other)


def test_each_flipped_bit_and_each_missing_octet_is_noticed() -> None:
    blob = sealer.seal(SECRET, "device-1")
    for bit in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreError):
            sealer.open(bytes(flipped), "device-1")
    for length in range(len(blob)):
        with pytest.raises(StoreError):
            sealer.open(blob[:length], "device-1")


def test_another_installation_cannot_open_it() -> None:
    with pytest.raises(StoreError):
        Sealer(bytes(32), Env()).open(sealer.seal(SECRET, "device-1"), "device-1")


def test_the_key_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sealing.json"
    blob = Sealer.create(path, b"passphrase", Env()).seal(SECRET, "device-1")
    assert Sealer.load(path, b"passphrase").open(blob, "device-1") == SECRET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["sealing.json"]  # no draft is left


def test_the_file_is_encrypted_and_follows_from_the_environment_alone(tmp_path: Path) -> None:
    Sealer.create(tmp_path / "a", b"passphrase", counting())
    Sealer.create(tmp_path / "b", b"passphrase", counting())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    key = (1).to_bytes(32)
    assert key.hex() not in (tmp_path / "a").read_text()
    blob = Sealer(key, Env()).seal(SECRET, "x")
    assert Sealer.load(tmp_path / "a", b"passphrase").open(blob, "x") == SECRET


def test_an_existing_key_is_never_overwritten(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="not overwritten"):
        Sealer.create(file, b"passphrase", Env())
    assert file.read_bytes() == before
    assert [found.name for found in file.parent.iterdir()] == ["sealing.json"]


def test_a_wrong_passphrase_is_told_and_no_secret_is_in_the_text(file: Path) -> None:
    with pytest.raises(ConfigError, match="passphrase is wrong") as caught:
        Sealer.load(file, b"pass phrase")
    assert "pass phrase" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "another"),
        ("n", 2**30),
        ("n", "32768"),
        ("r", 9),
        ("p", None),
        ("salt", "00"),
        ("salt", "no hex"),
        ("nonce", 7),
        ("wrapped", "00" * 48),
        ("wrapped", None),
    ],
)
def test_a_damaged_file_is_told(file: Path, name: str, value: object) -> None:
    fields = json.loads(file.read_text())
    fields[name] = value
    file.write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match=r"sealing\.json: "):
        Sealer.load(file, b"passphrase")


@pytest.mark.parametrize("octets", [b"", b"{", b"[]", b"7", b"\xff", b" " * 5000, b"[" * 4000])
def test_a_file_that_is_no_key_is_told(file: Path, octets: bytes) -> None:
    file.write_bytes(octets)
    with pytest.raises(ConfigError, match="not a sealing key"):
        Sealer.load(file, b"passphrase")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Sealer.load(tmp_path / "none", b"passphrase")


def test_nothing_shows_the_key() -> None:
    assert bytes(range(32)).hex() not in repr(sealer)
    assert not hasattr(sealer, "__dict__")
