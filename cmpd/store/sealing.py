"""Shared secrets encrypted at rest: who has the database alone learns none of them.

Each secret is sealed with AES-256-GCM under one random key of the installation, bound to its reference value so that
sealed secrets cannot be swapped between entities. That key lives in a small JSON file beside the database, itself
encrypted under a key that scrypt derives from the installation's passphrase. So both the file and the passphrase are
needed, and a changed passphrase needs no secret sealed anew.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cmpd.env import Env
from cmpd.errors import ConfigError, StoreError

KEY = 32  # octets
NONCE = 12
TAG = 16
SALT = 16
SCRYPT = {"n": 2**15, "r": 8, "p": 1}  # 32 MiB and about 0.1 s
FORMAT = "cmpd sealing key 1"
MAX_FILE = 4096  # octets; a file that we wrote has about 250
VERSION = b"\x01"  # first octet of a sealed secret
OVERHEAD = 1 + NONCE + TAG  # octets that a sealed secret is longer


class Sealer:
    """Seals and opens secrets; made by `create` or `load`. Its key is held in memory and never shown."""

    __slots__ = ("_aead", "_env")

    def __init__(self, key: bytes, env: Env) -> None:
        self._aead = AESGCM(key)
        self._env = env

    @classmethod
    def create(cls, path: Path, passphrase: bytes, env: Env | None = None) -> "Sealer":
        """Make a key and its file (mode 0600). ConfigError if there is a file already, or it cannot be written."""
        env = env or Env()
        key, salt, nonce = env.random(KEY), env.random(SALT), env.random(NONCE)
        wrapped = AESGCM(_derive(passphrase, salt)).encrypt(nonce, key, FORMAT.encode())
        fields = {"format": FORMAT, **SCRYPT, "salt": salt.hex(), "nonce": nonce.hex(), "wrapped": wrapped.hex()}
        try:
            _write_new(path, json.dumps(fields, indent=2).encode() + b"\n", env.random(8).hex())
        except FileExistsError as error:
            raise ConfigError(f"{path}: there is a sealing key already; it is not overwritten") from error
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        return cls(key, env)

    @classmethod
    def load(cls, path: Path, passphrase: bytes, env: Env | None = None) -> "Sealer":
        """Read the key's file. ConfigError if it is missing or damaged, or the passphrase is not the one."""
        fields = _read(path)
        try:
            salt, nonce, wrapped = (bytes.fromhex(fields[name]) for name in ("salt", "nonce", "wrapped"))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: this sealing key is damaged: want salt, nonce and wrapped in hex") from error
        # The costs are compared and not believed: a tampered file must not make us derive with any other.
        if {name: fields.get(name) for name in SCRYPT} != SCRYPT or (len(salt), len(nonce), len(wrapped)) != (
            SALT,
            NONCE,
            KEY + TAG,
        ):
            raise ConfigError(f"{path}: this sealing key is damaged: a parameter is not what cmpd writes")
        try:
            key = AESGCM(_derive(passphrase, salt)).decrypt(nonce, wrapped, FORMAT.encode())
        except InvalidTag as error:
            raise ConfigError(f"{path}: the passphrase is wrong or the file is damaged") from error
        return cls(key, env or Env())

    def seal(self, secret: bytes, reference: str) -> bytes:
        """Encrypt the shared secret of this reference value: version (1 octet), nonce (12), ciphertext and tag."""
        nonce = self._env.random(NONCE)
        return VERSION + nonce + self._aead.encrypt(nonce, secret, _bound_to(reference))

    def open(self, blob: bytes, reference: str) -> bytes:
        """The secret. StoreError if the blob is damaged, or was sealed under another key or for another reference."""
        if blob[:1] != VERSION or len(blob) < OVERHEAD:
            raise StoreError(f"sealed secret of {reference!r}: want version 1, found another or too few octets")
        try:
            return self._aead.decrypt(blob[1 : 1 + NONCE], blob[1 + NONCE :], _bound_to(reference))
        except InvalidTag as error:
            raise StoreError(f"sealed secret of {reference!r}: damaged, or sealed for another key or entity") from error


def _bound_to(reference: str) -> bytes:
    return b"cmpd entity secret\0" + reference.encode()


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=KEY, **SCRYPT).derive(passphrase)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    try:
        fields = json.loads(octets) if len(octets) <= MAX_FILE else None
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ConfigError(f"{path}: this is not a sealing key of cmpd (want JSON with format {FORMAT!r})")
    return fields


def _write_new(path: Path, octets: bytes, suffix: str) -> None:
    """Write a file that appears whole or not at all, never over another one, and survives a power cut."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{suffix}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # a rename would replace an existing file
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
