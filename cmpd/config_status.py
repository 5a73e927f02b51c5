"""The tables of cmpd.toml about the status of certificates: how it is changed (rr), and how it is published.

See config.py for how such models are written.
"""

from typing import Annotated, Final

from pydantic import Field, ValidationInfo, field_validator

from cmpd.config_values import (
    DAY,
    HOUR,
    MINUTE,
    BaseUrl,
    File,
    Flag,
    Listen,
    Table,
    duration_text,
    shown,
    span,
)

CRL_PATH: Final = "/ca.crl"
DELTA_PATH: Final = "/delta.crl"
CERTIFICATE_PATH: Final = "/ca.cer"
CHAIN_PATH: Final = "/ca-chain.pem"
OCSP_PATH: Final = "/ocsp"
"""What is where below publish.base_url, and on publish.listen."""


class RevocationConfig(Table):
    """How certificates are revoked, suspended and resumed by CMP (rr)."""

    max_per_message: int = Field(default=64, strict=True, ge=1, le=1000)
    """Most certificates named in one rr."""
    suspended_may_resume_itself: Flag = False
    """Let the holder resume a suspended certificate by a request signed with it. Whoever has stolen its key can do so
    too; what an operator has suspended only an operator or an RA resumes."""


class CrlConfig(Table):
    """The certificate revocation list."""

    directory: File | None = Field(default=None, examples=["crl"])
    """Where ca.crl and delta.crl are written, each whole or not at all. Not set: they are served by [publish] alone."""
    interval: Annotated[int, span(MINUTE, 365 * DAY)] = DAY
    """A new CRL is issued at least this often; after a change of any certificate it is issued at once."""
    overlap: Annotated[int, span(0, 365 * DAY)] = 2 * DAY
    """How long after the next one is due a CRL can still be used (nextUpdate = thisUpdate + interval + overlap):
    the time to repair a server that is down."""
    gather: Annotated[int, span(0, HOUR)] = 1
    """Changes within this time after a CRL make one more CRL together."""
    delta: Flag = True
    """Issue delta CRLs too: what has changed since the last CRL that was issued by the interval."""
    issuing_distribution_point: Flag = True
    """Say in the CRL that it is about end entity certificates only (IssuingDistributionPoint, critical). false for
    software that asks the CRL about the CA's own certificate too, or does not know the extension: nginx ssl_crl,
    OpenVPN crl-verify, `openssl verify -crl_check_all`, mbedTLS."""
    backdate: Annotated[int, span(0, HOUR)] = 5 * MINUTE
    """How long before the making of a CRL its thisUpdate is, at most half of the interval: who has a clock that is
    slow by less takes it at once."""


class OcspConfig(Table):
    """The OCSP responder; [publish] is its door."""

    signer: File | None = Field(default=None, examples=["private/ocsp.pem"])
    """Its certificate and key (PEM, the key encrypted under the passphrase of the CA's), made and renewed by the
    server itself. Not set: there is no OCSP."""
    signer_validity: Annotated[int, span(HOUR, 365 * DAY)] = 30 * DAY
    """How long its certificate is valid; it is renewed after two thirds of that."""
    validity: Annotated[int, span(MINUTE, 30 * DAY)] = HOUR
    """How long an answer can be used (nextUpdate)."""
    max_age: Annotated[int, span(0, 30 * DAY)] = 60
    """How long HTTP caches may keep an answer to a GET."""

    @field_validator("max_age")
    @classmethod
    def _within_validity(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("validity", value):
            raise ValueError(f"want at most validity, have {shown(duration_text(value))}")
        return value


class PublishConfig(Table):
    """The door for CRLs, OCSP and CA certificates, by HTTP: what everybody may read. Not for CMP."""

    listen: Listen | None = Field(default=None, examples=["127.0.0.1:8080"])
    """"HOST:PORT" or "[IPv6]:PORT". Not set: it is closed."""
    base_url: BaseUrl | None = Field(default=None, examples=["http://pki.example.com"])
    """Under which URL the outside reaches it. Certificates issued from then on name it as the place of the CRL, of
    OCSP and of the CA's certificate."""
    max_connections: int = Field(default=1000, strict=True, ge=1, le=100_000)
    """Connections at the same time."""
    max_connections_per_address: int = Field(default=100, strict=True, ge=1, le=100_000)
    """Connections at the same time from one address. Behind a proxy all come from the proxy's: raise it to
    max_connections."""
    request_timeout: Annotated[int, span(1, HOUR)] = 10
    """A request must have arrived after this time, and each 128 KiB of its answer been taken."""
    idle_timeout: Annotated[int, span(1, HOUR)] = 30
    """A connection on which nothing is asked for is closed after this time."""

    @field_validator("listen")
    @classmethod
    def _not_passed(cls, value: str | None) -> str | None:
        if value == "systemd":
            raise ValueError('want "HOST:PORT", have "systemd": this door is opened by the server itself')
        return value
