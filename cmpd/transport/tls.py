"""TLS of the doors: one context per door, made anew when its files change, and what a handshake tells of the peer.

The library has its rules for ciphers and groups; here are the versions, the certificates and who is asked for one. In
TLS 1.3 no session tickets are sent: a resumed session shows the certificate of the first one without looking at it
again, and a client of a CA has no use for the fraction of a millisecond. Tickets of TLS 1.2 stay (without them the
library would keep sessions in memory); the certificate is in them, and whether it is still good is asked of the
database whenever it stands for somebody.
"""

import logging
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cmpd.asn1.der import DerError
from cmpd.errors import ConfigError
from cmpd.outline import outline
from cmpd.signing.file import read_certificates

log = logging.getLogger("cmpd.transport.tls")

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CLIENT: Final = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_LONGEST_CHAIN: Final = 16


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Files are PEM. `certificate`: the server's, then its chain. `client_ca`: CAs of clients, beside the anchors."""

    certificate: Path
    key: Path
    minimum: Literal["1.2", "1.3"] = "1.2"
    client: Literal["none", "optional", "required"] = "none"
    client_ca: Path | None = None


class TlsContext:
    """What handshakes are done with. `passphrase`: of the key, if it is encrypted; `anchors`: DER of certificates that
    client certificates may chain to or be. Raises ConfigError if a file is not as it should be.
    """

    def __init__(
        self, settings: TlsSettings, passphrase: bytes | Callable[[], bytes], anchors: Iterable[bytes] = ()
    ) -> None:
        self.settings = settings
        self._passphrase = passphrase
        self._anchors = dict.fromkeys(anchors)
        self._registered: dict[bytes, None] = {}  # what `trust` has said last
        self._seen = self._look()
        self._known: dict[bytes, list[bytes]]  # subject (DER) -> certificates of client_ca
        self.context: ssl.SSLContext
        self._load()

    def reload_if_changed(self) -> None:
        """Make a new context if a file has changed; if that fails there is a warning, and the old one stays.

        Connections that are there go on with what they have.
        """
        seen = self._look()  # before reading: what is written meanwhile is seen the next time
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._load()
        except ConfigError as error:
            log.warning("tls: the files have changed and cannot be used, the old ones stay: %s", error)
        else:
            log.info("tls: read anew certificate=%s", self.settings.certificate)

    def trust(self, certificates: Iterable[bytes]) -> None:
        """All certificates (DER) besides the anchors that client certificates may chain to or be, from now on.

        What was among them before and is no more takes a new context; connections that are there go on.
        """
        before, self._registered = self._registered, dict.fromkeys(certificates)
        if before.keys() <= self._registered.keys():
            _add(self.context, [one for one in self._registered if one not in before])
            return
        try:
            self._load()
        except ConfigError as error:
            log.warning("tls: who is registered no more can connect until the files can be used: %s", error)

    def certificates(self, transport: Any) -> tuple[bytes, ...]:
        """DER of the certificate that the peer has proven to have, and of its chain as far as known; empty without.

        `transport`: what the handshake's protocol was given (its extra info "ssl_object" is asked).
        """
        session = transport.get_extra_info("ssl_object")
        if session is None or session.context.verify_mode == ssl.CERT_NONE:
            return ()
        leaf = session.getpeercert(binary_form=True)
        if leaf is None:
            return ()
        sent = getattr(session, "get_unverified_chain", None)  # Python 3.13
        others = tuple(sent())[:_LONGEST_CHAIN] if sent is not None else ()
        return tuple(dict.fromkeys((leaf, *others, *self.known_chain(leaf))))

    def known_chain(self, certificate: bytes) -> tuple[bytes, ...]:
        """The certificates of client_ca that may be above this one (DER), nearest first."""
        found: dict[bytes, None] = {}
        at = [certificate]
        try:
            while at and len(found) < _LONGEST_CHAIN:
                above = [one for lower in at for one in self._known.get(outline(lower).issuer, ())]
                at = [one for one in dict.fromkeys(above) if one not in found]
                found.update(dict.fromkeys(at))
        except DerError:  # a certificate that only the TLS library can read
            return ()
        return tuple(found)

    # --- files

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        settings = self.settings
        return tuple(_state(path) for path in (settings.certificate, settings.key, settings.client_ca) if path)

    def _load(self) -> None:
        settings = self.settings
        read_certificates(settings.certificate)
        client_cas = read_certificates(settings.client_ca) if settings.client_ca is not None else ()
        known: dict[bytes, list[bytes]] = {}
        for one in client_cas:
            try:
                known.setdefault(outline(one).subject, []).append(one)
            except DerError as error:
                raise ConfigError(f"certificate {settings.client_ca}: {error}") from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[settings.minimum]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 0
        context.verify_mode = _CLIENT[settings.client]
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an anchor need be no root, nor a CA
        self._load_key(context)
        _add(context, dict.fromkeys((*client_cas, *self._anchors, *self._registered)))
        self.context, self._known = context, known

    def _load_key(self, context: ssl.SSLContext) -> None:
        certificate, key = self.settings.certificate, self.settings.key
        try:
            with key.open("rb"):
                pass  # for the name of the file in the error
            context.load_cert_chain(certificate, key, self._passphrase)
        except ssl.SSLError as error:
            if error.reason in _OTHER_KEY:
                raise ConfigError(f"key {key}: is not the key of the first certificate in {certificate}") from error
            if error.reason == "EE_KEY_TOO_SMALL":
                raise ConfigError(f"certificate {certificate}: its key is too small for TLS") from error
            raise ConfigError(
                f"key {key}: cannot be opened, wrong passphrase or no private key ({error.reason or error})"
            ) from error
        except OSError as error:
            raise ConfigError(f"key {key}: cannot be read: {error.strerror}") from error
        except ValueError as error:  # of the passphrase: too long
            raise ConfigError(f"key {key}: cannot be opened: {error}") from error


_OTHER_KEY: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})
"""What OpenSSL says of a key that is not the certificate's; the last one if it is of another type."""


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # ctime, not mtime: rights that are set right afterwards, and a copy that keeps its date, are changes too
    return found.st_ctime_ns, found.st_size, found.st_ino


def _add(context: ssl.SSLContext, certificates: Iterable[bytes]) -> None:
    for one in certificates:
        try:
            context.load_verify_locations(cadata=one)
        except (ssl.SSLError, ValueError) as error:  # nothing that others put into the database may close a door
            log.warning("tls: a certificate cannot be an anchor for clients: %s", error)


# --- faults ----------------------------------------------------------------------------------------------------------

_FAULTS: Final = {
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS, and this port takes nothing else",
    "HTTP_REQUEST": "the peer speaks HTTP without TLS, and this port takes TLS alone",
    "UNSUPPORTED_PROTOCOL": "the peer speaks older versions of TLS only (tls_minimum)",
    "NO_SHARED_CIPHER": "the peer knows no cipher that this server has",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": 'the peer has no certificate (tls_client = "required")',
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust the certificate of this server (unknown_ca)",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not take the certificate of this server (certificate_unknown)",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not take the certificate of this server (bad_certificate)",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer finds the certificate of this server expired",
}


def handshake_fault(error: OSError, seconds: float) -> str:
    """What went wrong with a handshake, for the log. `seconds`: what it may take."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "no reason given"
        return _FAULTS.get(reason, reason.lower().replace("_", " "))
    if isinstance(error, ConnectionAbortedError):
        return f"it was not complete after {seconds:g} seconds"
    if isinstance(error, ConnectionError):
        return "the peer has closed the connection"
    return error.strerror or type(error).__name__
