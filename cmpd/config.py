"""cmpd.toml: from text to frozen values; every default and every check.

One model per table of the file. The docstring under each key is what the operator reads about it: `template` writes
them into the file that `cmpd init` makes, so the file cannot state another default than the one that holds. `load`
collects all mistakes and reports them at once, one line each, with the path of the key and, where one is near, the key
or value that was meant. Whether the files exist and fit together is for `cmpd check` to say.
"""

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from cmpd import config_text
from cmpd.config_doors import HttpConfig, LocalConfig, SpoolConfig, TcpConfig
from cmpd.config_profiles import ProfileConfig
from cmpd.config_status import CrlConfig, OcspConfig, PublishConfig, RevocationConfig
from cmpd.config_values import (
    DAY,
    MINUTE,
    NOT_EMPTY,
    File,
    Flag,
    PlacedError,
    SignatureName,
    Table,
    duration_text,
    shown,
    span,
)
from cmpd.errors import ConfigError

_MAX_PASSPHRASE: Final = 1023
"""Octets; what OpenSSL takes."""

ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


# --- the tables ------------------------------------------------------------------------------------------------------


class CaConfig(Table):
    """The certificate authority. Relative paths in this file are relative to the directory of this file."""

    certificate: File
    """The certificate of the CA (PEM)."""
    key: File
    """Its private key: encrypted PKCS#8 (PEM)."""
    chain: File | None = Field(default=None, examples=["ca.chain.pem"])
    """Only for a subordinate CA: the certificates of the CAs above it (PEM), from its issuer upwards; the last one may
    be the root."""
    signature: SignatureName | None = Field(default=None, examples=["rsassa-pss-sha256"])
    """The algorithm that certificates and CRLs are signed with, under the name in docs/supported-cmp.md, for keys that
    have several. Not set: ECDSA with the hash of the curve's strength, RSA as sha256WithRSAEncryption."""
    passphrase_file: File | None = Field(default=None, examples=["private/passphrase"])
    """File with the passphrase of the private keys and of store.secrets_key; a newline at its end does not count. Not
    set: the systemd credential "passphrase" (LoadCredential= or LoadCredentialEncrypted= in the unit)."""

    def passphrase(self) -> bytes:
        """The passphrase, from passphrase_file or the systemd credential; ConfigError says what is wrong with it."""
        if self.passphrase_file is not None:
            return read_passphrase(self.passphrase_file)
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ConfigError(
                "ca.passphrase_file is not set and there is no systemd credential ($CREDENTIALS_DIRECTORY): "
                "set ca.passphrase_file, or start with LoadCredential=passphrase:FILE"
            )
        return read_passphrase(Path(directory) / "passphrase")


class CmpConfig(Table):
    """The keys of the server itself, each with a certificate of the CA. `cmpd key add` makes the optional ones."""

    certificate: File
    """The certificate of the key that signs CMP responses (PEM), extended key usage id-kp-cmcCA."""
    key: File
    """Its private key: encrypted PKCS#8 (PEM), same passphrase as the CA's."""
    signature: SignatureName | None = Field(default=None, examples=["rsassa-pss-sha256"])
    """The algorithm that CMP responses are signed with. Not set: the usual one of the key, as with ca.signature."""
    encryption_certificate: File | None = Field(default=None, examples=["encryption.pem"])
    """The certificate that clients encrypt to (caProtEncCert), RSA, issued by the CA. Not set: revocation passphrases
    can only be sent under a shared secret."""
    encryption_key: File | None = Field(default=None, examples=["private/encryption.key.pem"], validate_default=True)
    """Its private key: encrypted PKCS#8 (PEM), same passphrase as the CA's."""
    agreement_certificate: File | None = Field(default=None, examples=["agreement.pem"])
    """The certificate of a static Diffie-Hellman key (P-256, P-384, P-521, X25519 or X448), issued by the CA. Not set:
    nobody can protect messages by DHBasedMac, or prove possession of a key by agreeMAC."""
    agreement_key: File | None = Field(default=None, examples=["private/agreement.key.pem"], validate_default=True)
    """Its private key: encrypted PKCS#8 (PEM), same passphrase as the CA's."""
    kem_certificate: File | None = Field(default=None, examples=["kem.pem"])
    """The certificate of a KEM key (ML-KEM-768 or ML-KEM-1024), issued by the CA. Clients that encapsulate a secret for
    it get answers that are protected by a MAC under that secret. Not set: such ciphertexts are ignored."""
    kem_key: File | None = Field(default=None, examples=["private/kem.key.pem"], validate_default=True)
    """Its private key: encrypted PKCS#8 (PEM), same passphrase as the CA's."""
    protection: Literal["signature", "kem"] = "signature"
    """What protects answers where neither a shared secret nor a key agreement does. "signature": they are signed, but
    not where the client has encapsulated a secret for the KEM key; "kem": none is, and who has not encapsulated one is
    told by an unprotected error to do so."""

    @field_validator("encryption_key", "agreement_key", "kem_key")
    @classmethod
    def _goes_with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = f"{str(info.field_name).removesuffix('_key')}_certificate"
        if (value is None) != (info.data.get(certificate) is None):
            raise ValueError(f"want {certificate} and {info.field_name}, or none of them")
        return value

    @field_validator("protection")
    @classmethod
    def _has_the_key(cls, value: str, info: ValidationInfo) -> str:
        if value == "kem" and "kem_key" in info.data and info.data["kem_key"] is None:
            raise ValueError('want kem_certificate and kem_key with "kem", have none')
        return value


class StoreConfig(Table):
    """Where the records are."""

    path: File
    """The database (SQLite); made when it is not there. On a local disk: network file systems lose its locks."""
    secrets_key: File
    """The key that seals shared secrets in the database, itself encrypted under the passphrase. Keep a copy apart from
    the database: without it the registered secrets are lost, and with a stolen database alone they cannot be read."""


class ProtectionConfig(Table):
    """What protection of messages is accepted."""

    allow_sha1_mac: Flag = True
    """Accept SHA-1 inside PasswordBasedMac (OpenSSL 3.0 and old devices use it), with a line in the log. SHA-1 in a
    signature is never accepted."""
    min_iterations: int = Field(default=100, strict=True, ge=1, le=10_000_000)
    """Fewest iterations of PasswordBasedMac."""
    max_iterations: int = Field(default=100_000, strict=True, ge=1, le=10_000_000, validate_default=True)
    """Most iterations of PasswordBasedMac; checked before anything is derived."""
    max_pbkdf2_iterations: int = Field(default=1_000_000, strict=True, ge=1000, le=100_000_000)
    """Most iterations of PBKDF2 (PBMAC1); checked before anything is derived."""
    max_salt: int = Field(default=128, strict=True, ge=8, le=4096)
    """Longest salt, in octets."""
    message_time_window: Annotated[int | None, span(1, 365 * DAY, off=True)] = 5 * MINUTE
    """How far messageTime may be from our clock, either way; "off": it is not looked at."""

    @field_validator("max_iterations")
    @classmethod
    def _above_min(cls, value: int, info: ValidationInfo) -> int:
        low = info.data.get("min_iterations", 1)
        if value < low:
            raise ValueError(f"want at least min_iterations ({low}), have {value}")
        return value


class EnrolmentConfig(Table):
    """How certificates are asked for."""

    default_profile: str = "default"
    """The profile of requesters for whom none is registered."""
    implicit_confirm: Flag = True
    """Grant implicitConfirm to those who ask for it: their certificate is valid without certConf."""
    confirm_wait: Annotated[int, span(1, 30 * DAY)] = 10 * MINUTE
    """How long certConf is awaited; after that the certificate is revoked."""
    retention: Annotated[int, span(MINUTE, 3650 * DAY)] = DAY
    """How long the answers of ended transactions are kept: a request that comes again in this time gets the same one.
    Later it is refused: the transactionID of an enrolment is never free again."""
    max_requests_per_message: int = Field(default=16, strict=True, ge=1, le=1000)
    """Most certificates asked for in one message."""
    certificate_holder_may_ask_for: Literal["own", "constraint", "any"] = "own"
    """The subject that the holder of a certificate of this CA may ask for. "own": the same as in its certificate;
    "constraint": what its registered subject constraint allows; "any": every subject that the profile allows."""
    approval_wait: Annotated[int, span(MINUTE, 365 * DAY)] = 30 * DAY
    """How long a request of a profile with approval = true is kept for an operator's decision and for its requester to
    come for the answer; afterwards it counts as rejected."""
    check_after: Annotated[int, span(1, DAY)] = 30
    """What the requester of such a request is told to wait before it asks again."""
    max_waiting: int = Field(default=1000, strict=True, ge=1, le=1_000_000)
    """Most requests that wait for an operator at the same time; one entity gets at most half of these places. As many
    may wait for the answer to a challenge (popdecr).
    """
    ca_pubs: Flag = True
    """Send the trust anchor in caPubs of an ip that is protected by a shared secret."""


class LogConfig(Table):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written: "debug", "info", "warning", "error"."""
    json_lines: Flag = Field(default=False, alias="json")
    """Write one JSON object a line instead of text."""


class Config(Table):
    """The whole file."""

    ca: CaConfig
    cmp: CmpConfig
    store: StoreConfig
    tcp: tuple[TcpConfig, ...] = ()
    http: Annotated[tuple[HttpConfig, ...], Field(validate_default=True)] = ()
    spool: tuple[SpoolConfig, ...] = ()
    local: LocalConfig = LocalConfig()
    protection: ProtectionConfig = ProtectionConfig()
    enrolment: EnrolmentConfig = EnrolmentConfig()
    revocation: RevocationConfig = RevocationConfig()
    crl: CrlConfig = CrlConfig()
    ocsp: OcspConfig = OcspConfig()
    publish: PublishConfig = PublishConfig()
    profile: Annotated[dict[ProfileName, ProfileConfig], NOT_EMPTY]
    log: LogConfig = LogConfig()

    @property
    def local_socket(self) -> Path:
        """Where the socket of the local door is."""
        return self.local.socket or self.store.path.with_name(f"{self.store.path.name}.sock")

    @field_validator("http")
    @classmethod
    def _addresses_differ(cls, value: tuple[HttpConfig, ...], info: ValidationInfo) -> tuple[HttpConfig, ...]:
        tables: dict[str, tuple[TcpConfig | HttpConfig, ...]] = {"tcp": info.data.get("tcp", ()), "http": value}
        if not any(tables.values()) and "tcp" in info.data:
            raise ValueError("want at least one [[tcp]] or [[http]], have none")
        first: dict[str, str] = {}
        named = [(f"{table}[{i}]", door) for table, found in tables.items() for i, door in enumerate(found)]
        for name, door in named:
            if door.enabled and not door.listen.endswith(":0") and first.setdefault(door.listen, name) != name:
                raise PlacedError(f"{name}.listen: {shown(door.listen)} is that of {first[door.listen]} already")
        return value

    @field_validator("ocsp")
    @classmethod
    def _signer_is_a_file_of_its_own(cls, value: OcspConfig, info: ValidationInfo) -> OcspConfig:
        for table in ("ca", "cmp", "store"):
            for name, path in info.data.get(table) or ():
                if isinstance(path, Path) and path == value.signer:
                    raise PlacedError(f"ocsp.signer: names the same file as {table}.{name}; want one of its own")
        return value

    @field_validator("enrolment")
    @classmethod
    def _remembers_long_enough(cls, value: EnrolmentConfig, info: ValidationInfo) -> EnrolmentConfig:
        window = info.data["protection"].message_time_window if "protection" in info.data else None
        if window is not None and value.retention < window:
            raise PlacedError(
                f"enrolment.retention: want at least protection.message_time_window ({duration_text(window)})"
            )
        return value

    @field_validator("profile")
    @classmethod
    def _has_defaults(cls, value: dict[str, ProfileConfig], info: ValidationInfo) -> dict[str, ProfileConfig]:
        named = {"enrolment": info.data["enrolment"].default_profile} if "enrolment" in info.data else {}
        for table in ("tcp", "http", "spool"):
            named |= {f"{table}[{i}]": door.default_profile for i, door in enumerate(info.data.get(table, ()))}
        if "local" in info.data:
            named["local"] = info.data["local"].default_profile
        for table, name in named.items():
            if name is not None and name not in value:
                raise PlacedError(f"{table}.default_profile: there is no [profile.{name}]")
        return value

    @field_validator("profile")
    @classmethod
    def _has_crls_for_cas(cls, value: dict[str, ProfileConfig], info: ValidationInfo) -> dict[str, ProfileConfig]:
        if "crl" in info.data and info.data["crl"].issuing_distribution_point:
            for name, profile in value.items():
                if profile.ca:
                    raise PlacedError(
                        f"profile.{name}.ca: want crl.issuing_distribution_point = false with it, or the CRL says that "
                        "it is about end entity certificates only"
                    )
        return value


# --- reading ---------------------------------------------------------------------------------------------------------


def load(path: Path) -> Config:
    """Read a configuration file; ConfigError has one line for each mistake."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    try:
        return parse(document, path.resolve().parent)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).split("\n"))) from error


def parse(document: Mapping[str, Any], base: Path) -> Config:
    """Check what tomllib has read; relative paths become relative to `base`."""
    try:
        return Config.model_validate(document, context={"base": base})
    except ValidationError as error:
        raise ConfigError("\n".join(config_text.mistakes(error, Config))) from error


def template(values: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of a complete, commented cmpd.toml: `values` ({"tcp": {"listen": ...}, ...}) set, the defaults as
    comments.
    """
    return config_text.template(Config, values)


def read_passphrase(path: Path) -> bytes:
    """The passphrase in a file, without one newline at its end; ConfigError if it is unusable or others can read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            octets = file.read(_MAX_PASSPHRASE + 3)
    except OSError as error:
        raise ConfigError(f"passphrase file {path}: cannot be read: {error.strerror}") from error
    if stat.S_ISREG(mode) and mode & 0o027:
        raise ConfigError(f"passphrase file {path}: others than its owner and group may use it: chmod 600 {path}")
    passphrase = octets.removesuffix(b"\n").removesuffix(b"\r")
    if not passphrase:
        raise ConfigError(f"passphrase file {path}: is empty")
    if len(passphrase) > _MAX_PASSPHRASE:
        raise ConfigError(f"passphrase file {path}: is longer than {_MAX_PASSPHRASE} octets")
    return passphrase
