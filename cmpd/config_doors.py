"""The tables of cmpd.toml about doors: where CMP comes in, over what, and what each door allows.

See config.py for how such models are written. What TLS needs is in one base, what all doors have in another.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationInfo, field_validator

from cmpd.config_values import DAY, DISTINCT, HOUR, NOT_EMPTY, File, Flag, Listen, Table, shown, span

BodyName = Literal["ir", "cr", "p10cr", "kur", "rr", "genm", "ckuann", "cann", "rann", "crlann"]
"""Bodies that begin a transaction and that a door may be restricted to."""

DEFAULT_PATH: Final = "/cmp"
WELL_KNOWN_PATH: Final = "/.well-known/cmp"
"""RFC 9811 section 3.4."""


class EntranceConfig(Table):
    """What every door has."""

    enabled: Flag = True
    """false: this door is closed."""
    bodies: Annotated[tuple[BodyName, ...] | None, NOT_EMPTY, DISTINCT] = Field(
        default=None, examples=[["cr", "p10cr", "rr"]]
    )
    """Messages that may begin a transaction here; what continues one is always taken. Not set: all."""
    mode: Literal["strict", "lenient"] = Field(default="strict", examples=["lenient"])
    """"strict": messages are to be as RFC 9483 has them. "lenient": also as RFC 9810 and RFC 4210 allow them, and old
    clients send them; docs/supported-cmp.md has the list."""
    default_profile: str | None = Field(default=None, examples=["default"])
    """The profile of requests that name none and whose requester may use it. Not set: that of the requester."""


class ListenerConfig(EntranceConfig):
    """What every door has that listens on a network."""

    listen: Listen = Field(examples=["127.0.0.1:8081"])
    """"HOST:PORT" or "[IPv6]:PORT"; 127.0.0.1 is reached from this machine only, "0.0.0.0:829" opens it to all IPv4
    networks, "[::]:829" to all IPv6 networks. "systemd": the sockets that the service manager passes (cmpd.socket),
    which is the way to ports below 1024 without root; "systemd:NAME": the ones with FileDescriptorName=NAME."""
    tls_certificate: File | None = Field(default=None, examples=["tls.pem"])
    """For TLS: the server's certificate and, after it, the chain (PEM). Read anew when the file changes. Not set: no
    TLS."""
    tls_key: File | None = Field(default=None, examples=["private/tls.key.pem"], validate_default=True)
    """Its private key (PEM); if it is encrypted, under the passphrase of the CA's. Read anew with the certificate."""
    tls_minimum: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""
    tls_client: Literal["none", "optional", "required"] = Field(default="none", validate_default=True)
    """Whether TLS clients are asked for a certificate: "none", "optional", "required"."""
    tls_client_ca: File | None = Field(default=None, examples=["device-ca.pem"])
    """CA certificates (PEM) that client certificates may chain to, besides this CA's own and those that are registered.
    Intermediate ones can stand here too."""
    tls_authenticates: Flag = Field(default=False, validate_default=True)
    """Take a TLS client certificate that is registered, or that this CA issued, as the protection of requests that have
    none. Only for clients that cannot protect their messages: what is in between sees and changes them."""
    tls_handshake_timeout: Annotated[int, span(1, HOUR)] = 10
    """A TLS handshake must be complete after this time."""

    @field_validator("tls_key")
    @classmethod
    def _goes_with_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_certificate") is None):
            raise ValueError("want tls_certificate and tls_key, or none of them")
        return value

    @field_validator("tls_client")
    @classmethod
    def _needs_tls(cls, value: str, info: ValidationInfo) -> str:
        if value != "none" and info.data.get("tls_certificate") is None:
            raise ValueError(f"want tls_certificate and tls_key with it, have {shown(value)} alone")
        return value

    @field_validator("tls_authenticates")
    @classmethod
    def _needs_certificates(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("tls_client", "none") == "none":
            raise ValueError('want tls_client = "optional" or "required" with it, have "none"')
        return value

    @property
    def has_tls(self) -> bool:
        """Whether this door speaks TLS."""
        return self.tls_certificate is not None


class TcpConfig(ListenerConfig):
    """A door for CMP over raw TCP (tcp-messages), or over TLS. There may be several [[tcp]]."""

    max_message_octets: int = Field(default=262_144, strict=True, ge=4096, le=67_108_864)
    """Longest message that is read, in octets."""
    partial_frame_timeout: Annotated[int, span(1, HOUR)] = 30
    """A message that has begun must have arrived after this time."""
    idle_timeout: Annotated[int, span(1, 365 * DAY)] = HOUR
    """A connection on which nothing happens is closed after this time."""
    send_timeout: Annotated[int, span(1, HOUR)] = 60
    """A peer that reads nothing of its answers for this time is dropped."""
    max_connections: int = Field(default=10_000, strict=True, ge=1, le=1_000_000)
    """Connections at the same time."""
    max_connections_per_address: int = Field(default=1024, strict=True, ge=1, le=1_000_000)
    """Connections at the same time from one address."""
    max_in_flight: int = Field(default=32, strict=True, ge=1, le=4096)
    """Requests of one connection that are worked on at the same time; reading pauses until one is answered."""
    write_high_water: int = Field(default=262_144, strict=True, ge=4096, le=67_108_864)
    """Octets of unread answers on one connection from which on nothing more is read from it."""
    rfc2510: Flag = True
    """Understand the framing of RFC 2510 (before version 10) and answer in kind."""
    transport_polling: Flag = True
    """Tell who has to wait so by the pollRep of tcp-messages. false: by the CMP message, as on other doors; clients in
    the framing of RFC 2510 know only the former and get it all the same."""


class HttpConfig(ListenerConfig):
    """A door for CMP over HTTP (RFC 9811), or HTTPS. There may be several [[http]]. Its paths are /.well-known/cmp,
    with /p/PROFILE and /OPERATION behind it or not, and `path`.
    """

    path: str = Field(default=DEFAULT_PATH, pattern=r"^(/[A-Za-z0-9._~-]+)+$|^$")
    """One more path for CMP; "": none."""
    tcp_messages: Flag = True
    """Take whole tcp-messages too, binary or in Base64, and answer in kind (application/pkixcmp-poll, and clients of
    z/OS)."""
    transport_polling: Flag = True
    """Tell who has to wait, and sends tcp-messages, so by their pollRep."""
    max_message_octets: int = Field(default=262_144, strict=True, ge=4096, le=67_108_864)
    """Longest message that is read, in octets, before Base64."""
    request_timeout: Annotated[int, span(1, HOUR)] = 30
    """A request must have arrived after this time, and each 128 KiB of its answer been taken."""
    idle_timeout: Annotated[int, span(1, 365 * DAY)] = HOUR
    """A connection without a request is closed after this time."""
    max_connections: int = Field(default=10_000, strict=True, ge=1, le=1_000_000)
    """Connections at the same time."""
    max_connections_per_address: int = Field(default=1024, strict=True, ge=1, le=1_000_000)
    """Connections at the same time from one address. Behind a proxy all come from the proxy's."""


class SpoolConfig(EntranceConfig):
    """A door for files (RFC 9483 section 6.4.1): NAME.pki is answered by NAME.reply.pki beside it, and becomes
    NAME.pki.done. There may be several [[spool]].
    """

    directory: File = Field(examples=["spool"])
    """Where requests are dropped; best written elsewhere on the same disk and moved here."""
    interval: Annotated[int, span(1, HOUR)] = 1
    """How often the directory is looked at."""
    max_message_octets: int = Field(default=262_144, strict=True, ge=4096, le=67_108_864)
    """Longest message that is read, in octets."""


class LocalConfig(EntranceConfig):
    """The door for `cmpd message` on this machine: a Unix domain socket that speaks tcp-messages."""

    socket: File | None = Field(default=None, examples=["/run/cmpd/cmpd.sock"])
    """Where it is. Not set: beside the database, with .sock at the end of its name. Only the user and the group of the
    server can use it."""
    max_message_octets: int = Field(default=262_144, strict=True, ge=4096, le=67_108_864)
    """Longest message that is read, in octets."""
