"""What `cmpd init` and `cmpd key add` do: a new CA below one directory, complete or not at all, and more keys for it.

A root CA is made in one go. A subordinate CA takes two: `make_subordinate` leaves a request (CSR) for the CA above,
and `install_certificate` takes in what that CA answers. Everything is written into DIR/.init first and renamed into
place at the end; what is there already is never touched, and DIR/.init left behind by a run that was cut off stops the
next one. The certificates themselves are made in bootstrap.py.

`make_pair` and `place_pair` add one key with its certificate to a CA that exists; in between the certificate is
recorded, so that none is in the world that the CA does not know.
"""

import base64
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from cmpd.asn1 import names
from cmpd.asn1.signing import SigningPrivateKey
from cmpd.bootstrap import (
    agreement_certificate,
    cmp_certificate,
    encryption_certificate,
    kem_certificate,
    path_to_root,
    request,
    root_certificate,
)
from cmpd.config import CmpConfig, Config, load, read_passphrase, template
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.private_keys import KEY_TYPES, same_kind
from cmpd.signing.agreement import AGREEMENT_KEYS
from cmpd.signing.file import encrypted_pem, load_key, pem, read_certificates, read_private_key
from cmpd.signing.kem import KEM_KEYS
from cmpd.store.sealing import Sealer

KEYS: Final = {name: make for name, make in KEY_TYPES.items() if name != "rsa2048"}
"""Kinds of keys for a new CA, by name; 2048 bits are too few for what is to live for 20 years."""
DEFAULT_LISTEN: Final = "127.0.0.1:829"
_ENCRYPTION_BITS: Final = 3072


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made. `subject`: text of a name, None = one with a random part. `key`: a key of KEYS.

    `publish`, `base_url`, `http`: what publish.listen, publish.base_url and http.listen are, None = not set.
    """

    directory: Path
    listen: str = DEFAULT_LISTEN
    subject: str | None = None
    key: str = "p256"
    passphrase_file: Path | None = None
    publish: str | None = None
    base_url: str | None = None
    http: str | None = None


# --- what the commands do --------------------------------------------------------------------------------------------


def make_root(plan: Plan, env: Env) -> None:
    """Make a root CA; ConfigError, with nothing changed, if any of its files is there."""
    names_of = _Files(plan.directory)
    subject = _subject(plan, env)
    pairs = _Pairs(names_of.cmp, names_of.cmp_key, names_of.encryption, names_of.encryption_key)
    new = (names_of.anchor, *pairs.paths, *names_of.common(plan))
    with _placing(plan.directory, new, names_of.crls) as staged:
        passphrase = _write_common(plan, names_of, staged, env, root=True)
        key = KEYS[plan.key]()
        certificate = root_certificate(key, subject, env)
        _write(staged(names_of.key), encrypted_pem(key, passphrase, env), 0o600)
        _write(staged(names_of.anchor), pem("CERTIFICATE", certificate))
        _write_pairs(pairs, staged, key, certificate, passphrase, env)


def make_subordinate(plan: Plan, env: Env) -> None:
    """Make the key of a subordinate CA and ca.csr; ConfigError, with nothing changed, if any of its files is there."""
    names_of = _Files(plan.directory)
    subject = _subject(plan, env)
    with _placing(plan.directory, (names_of.request, *names_of.common(plan)), names_of.crls) as staged:
        passphrase = _write_common(plan, names_of, staged, env, root=False)
        key = KEYS[plan.key]()
        _write(staged(names_of.key), encrypted_pem(key, passphrase, env), 0o600)
        _write(staged(names_of.request), pem("CERTIFICATE REQUEST", request(key, subject)))


def install_certificate(directory: Path, file: Path, chain: Path | None, env: Env) -> None:
    """Take in the certificate of a subordinate CA, the first one in `file`; the ones above it are in either file."""
    config = load(directory / "cmpd.toml")
    if config.ca.chain is None:
        raise ConfigError(
            f"{directory / 'cmpd.toml'}: ca.chain: missing, a subordinate CA needs it (cmpd init --subordinate)"
        )
    certificate, *others = read_certificates(file)
    above = path_to_root(certificate, [*others, *(read_certificates(chain) if chain else ())], int(env.now()))
    passphrase = config.ca.passphrase()
    load_key(config.ca.key, passphrase, certificate)
    anchor = _Files(directory).anchor
    cmp = config.cmp
    pairs = _Pairs(cmp.certificate, cmp.key, cmp.encryption_certificate, cmp.encryption_key)
    new = (anchor, config.ca.chain, *pairs.paths, config.ca.certificate)
    with _placing(directory, new) as staged:
        key = read_private_key(config.ca.key, passphrase)
        _write(staged(config.ca.certificate), pem("CERTIFICATE", certificate))
        _write(staged(config.ca.chain), b"".join(pem("CERTIFICATE", one) for one in above))
        _write(staged(anchor), pem("CERTIFICATE", above[-1]))
        _write_pairs(pairs, staged, key, certificate, passphrase, env)


# --- keys that are added ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Addable:
    """A key that the server may have: how it is made by type, the usual type first, and its certificate.

    `paths`: those of certificate and key that are configured.
    """

    types: Mapping[str, Callable[[], Any]]
    certify: Callable[[Any, SigningPrivateKey, bytes, Env], bytes]
    paths: Callable[[CmpConfig], tuple[Path | None, Path | None]]


ADDABLE: Final[dict[str, Addable]] = {
    "encryption": Addable(
        {name: KEY_TYPES[name] for name in ("rsa3072", "rsa4096")},
        encryption_certificate,
        lambda cmp: (cmp.encryption_certificate, cmp.encryption_key),
    ),
    "agreement": Addable(
        AGREEMENT_KEYS, agreement_certificate, lambda cmp: (cmp.agreement_certificate, cmp.agreement_key)
    ),
    "kem": Addable(KEM_KEYS, kem_certificate, lambda cmp: (cmp.kem_certificate, cmp.kem_key)),
}
"""By the purpose that the record of the certificate has; [cmp] has PURPOSE_certificate and PURPOSE_key for each."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A key and its certificate (DER) that have no place yet. `configured`: the configuration names the files."""

    certificate_path: Path
    key_path: Path
    certificate: bytes
    pem: bytes = field(repr=False)  # the key, encrypted
    configured: bool


def make_pair(config: Config, purpose: str, key_type: str | None, env: Env) -> Pair:
    """Make a key of ADDABLE and its certificate: for the files that are configured, or beside those of cmp.key.

    ConfigError if one of these files is there, or the CA's key cannot be used or its certificate does not fit.
    """
    addable, cmp = ADDABLE[purpose], config.cmp
    configured = addable.paths(cmp)
    certificate_path = configured[0] or cmp.certificate.with_name(f"{purpose}.pem")
    key_path = configured[1] or cmp.key.with_name(f"{purpose}.key.pem")
    for path in (certificate_path, key_path):
        if os.path.lexists(path):
            raise ConfigError(f"{path} is there already; nothing was changed. Move it away to have another one made")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no directory {path.parent}")
    passphrase = config.ca.passphrase()
    (ca_certificate, *_) = read_certificates(config.ca.certificate)
    load_key(config.ca.key, passphrase, ca_certificate)
    ca_key = read_private_key(config.ca.key, passphrase)
    key = addable.types[key_type or next(iter(addable.types))]()
    certificate = addable.certify(key, ca_key, ca_certificate, env)
    return Pair(certificate_path, key_path, certificate, encrypted_pem(key, passphrase, env), None not in configured)


def place_pair(pair: Pair) -> None:
    """Write both files, or none; FileExistsError if one has come in the meantime."""
    _place(pair.key_path, pair.pem, 0o600)
    try:
        _place(pair.certificate_path, pem("CERTIFICATE", pair.certificate), 0o644)
    except BaseException:
        pair.key_path.unlink()
        raise


def _place(path: Path, octets: bytes, mode: int) -> None:
    """Write a file as whole, with the owner of its directory, never over another one."""
    new = path.with_name(f".{path.name}.new")
    _write(new, octets, mode)
    try:
        if os.geteuid() == 0:  # the server, which runs as another user, has to read it
            owner = path.parent.stat()
            os.chown(new, owner.st_uid, owner.st_gid)
        _sync(new)
        os.link(new, path)
    finally:
        new.unlink()
    _sync(path.parent)


# --- files -----------------------------------------------------------------------------------------------------------


class _Files:
    """The names of the files below a directory."""

    def __init__(self, directory: Path) -> None:
        private = directory / "private"
        self.config = directory / "cmpd.toml"
        self.anchor = directory / "ca.pem"
        self.request = directory / "ca.csr"
        self.issuing = directory / "ca.issuing.pem"
        self.chain = directory / "ca.chain.pem"
        self.cmp = directory / "cmp.pem"
        self.encryption = directory / "encryption.pem"
        self.crls = directory / "crl"
        self.database = directory / "cmpd.db"
        self.key = private / "ca.key.pem"
        self.cmp_key = private / "cmp.key.pem"
        self.encryption_key = private / "encryption.key.pem"
        self.sealing = private / "store.key"
        self.passphrase = private / "passphrase"

    def common(self, plan: Plan) -> tuple[Path, ...]:
        """What every new CA gets, the configuration last: while it is not there, nothing can start."""
        own = () if plan.passphrase_file else (self.passphrase,)
        return (*own, self.key, self.sealing, self.database, self.config)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The certificates of the server itself and their keys; `encryption` and `encryption_key` None: it has none."""

    cmp: Path
    cmp_key: Path
    encryption: Path | None
    encryption_key: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        if self.encryption is None or self.encryption_key is None:
            return (self.cmp, self.cmp_key)
        return (self.cmp, self.cmp_key, self.encryption, self.encryption_key)


@contextlib.contextmanager
def _placing(directory: Path, targets: Sequence[Path], *empty: Path) -> Iterator[Callable[[Path], Path]]:
    """Give a function from each target to the path to write it at; at the end all are renamed into place, in order.

    `empty`: directories that are made too; one that is there already stays as it is.
    """
    for target in reversed(targets):  # the last one says most of what is there
        if os.path.lexists(target):
            raise ConfigError(
                f"{target} is there already; nothing was changed. Choose another directory, or move it away"
            )
    made = [path for path in (directory, directory / "private", *empty) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    stage = directory / ".init"
    try:
        stage.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(
            f"{stage} is there: another init is running, or was cut off; nothing was changed. "
            f"If none is running, look into it, remove it and start again"
        ) from None
    try:
        _make_private(directory / "private")
        for path in empty:
            if os.path.lexists(path) and not path.is_dir():
                raise ConfigError(f"{path} is there already and no directory; nothing was changed")
            path.mkdir(exist_ok=True)
        yield lambda target: stage / target.name
        for target in targets:
            _sync(stage / target.name)
    except BaseException:
        shutil.rmtree(stage)
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    for target in targets:
        (stage / target.name).rename(target)
    stage.rmdir()
    for path in {target.parent for target in targets} | {directory}:
        _sync(path)


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others than its owner may use it: chmod 700 {path}")


def _write(path: Path, octets: bytes, mode: int = 0o644) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(octets)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_common(plan: Plan, files: _Files, staged: Callable[[Path], Path], env: Env, *, root: bool) -> bytes:
    """Write passphrase, sealing key, database and configuration; return the passphrase."""
    if plan.passphrase_file:
        passphrase = read_passphrase(plan.passphrase_file)
    else:
        passphrase = base64.b32encode(env.random(32)).rstrip(b"=").lower()
        _write(staged(files.passphrase), passphrase + b"\n", 0o600)
    Sealer.create(staged(files.sealing), passphrase, env)
    _write(staged(files.database), b"", 0o600)  # no octets are an empty SQLite database; its WAL takes over the mode
    given = plan.passphrase_file
    ca = {
        "certificate": "ca.pem" if root else files.issuing.name,
        "key": "private/ca.key.pem",
        "passphrase_file": str(given.absolute()) if given else "private/passphrase",
    }
    publish = {"listen": plan.publish, "base_url": plan.base_url}
    values: Mapping[str, Mapping[str, Any]] = {
        "ca": ca if root else ca | {"chain": files.chain.name},
        "cmp": {
            "certificate": files.cmp.name,
            "key": "private/cmp.key.pem",
            "encryption_certificate": files.encryption.name,
            "encryption_key": "private/encryption.key.pem",
        },
        "store": {"path": files.database.name, "secrets_key": "private/store.key"},
        "tcp": {"listen": plan.listen},
        **({"http": {"listen": plan.http}} if plan.http is not None else {}),
        "crl": {"directory": files.crls.name},
        "ocsp": {"signer": "private/ocsp.pem"},
        "publish": {key: value for key, value in publish.items() if value is not None},
    }
    _write(staged(files.config), template(values).encode())
    return passphrase


def _write_pairs(
    pairs: _Pairs,
    staged: Callable[[Path], Path],
    ca_key: SigningPrivateKey,
    ca_certificate: bytes,
    passphrase: bytes,
    env: Env,
) -> None:
    """Make the keys and certificates that sign CMP responses and that clients encrypt to."""
    key = same_kind(ca_key)
    _write(staged(pairs.cmp_key), encrypted_pem(key, passphrase, env), 0o600)
    _write(staged(pairs.cmp), pem("CERTIFICATE", cmp_certificate(key, ca_key, ca_certificate, env)))
    if pairs.encryption is not None and pairs.encryption_key is not None:
        rsa_key = rsa.generate_private_key(65537, _ENCRYPTION_BITS)
        _write(staged(pairs.encryption_key), encrypted_pem(rsa_key, passphrase, env), 0o600)
        made = encryption_certificate(rsa_key, ca_key, ca_certificate, env)
        _write(staged(pairs.encryption), pem("CERTIFICATE", made))


def _subject(plan: Plan, env: Env) -> bytes:
    try:
        made_up = f"CN=cmpd CA {env.random(4).hex()}"
        subject = names.encode_name(made_up if plan.subject is None else plan.subject)
    except ValueError as error:
        raise ConfigError(f"--subject: {error}") from error
    if subject == names.NULL_DN:
        raise ConfigError("--subject: a CA needs a name that is not empty")
    return subject
