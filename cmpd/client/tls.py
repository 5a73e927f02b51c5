"""TLS below CMP: what a server's certificate must lead to, and the client's own certificate.

This is hop by hop, and apart from the trust in CMP answers: those are verified whatever they came over. There is no
switch for a server's certificate that is not checked; its name is always checked too.
"""

import os
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cmpd.client import keys
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.errors import ClientError

_HINTS: Final[dict[str, str]] = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS there",
    "RECORD_LAYER_FAILURE": "the server does not speak TLS there",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server wants a client certificate: give --tls-cert and --tls-key",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "no common algorithms, or the server wants a client certificate (--tls-cert)",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not trust the client certificate (--tls-cert)",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server does not take the client certificate (--tls-cert)",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server does not take the client certificate (--tls-cert)",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client certificate has expired (--tls-cert)",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the client certificate is revoked (--tls-cert)",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server speaks no version of TLS from 1.2 on, or wants a newer one",
}
"""What the reason of an ssl.SSLError means to a user."""

_GIVE_CA: Final = " (--tls-ca FILE names the CA that it is from)"
_GIVE_NAME: Final = " (--tls-host NAME says which name it has)"
_VERIFY_HINTS: Final[dict[int, str]] = {
    2: _GIVE_CA,
    18: _GIVE_CA,
    19: _GIVE_CA,
    20: _GIVE_CA,
    21: _GIVE_CA,
    62: _GIVE_NAME,
    64: _GIVE_NAME,
}
"""By X509_V_ERR of OpenSSL: no path to a CA that is trusted; another host name or IP address."""

HUNG_UP: Final = "TLS: the server hung up during the handshake: does it speak TLS there?"

ASK_FOR_CERTIFICATE: Final = "does it want a TLS client certificate that it trusts? (--tls-cert)"
"""For a server that hangs up: few say by an alert that a client certificate is missing, or not taken."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """`anchors`: what the server's certificate may lead to; `system`: besides those that the system trusts.

    `certificate`, `key`: PEM files of the client's own certificate with its chain after it. `host`: the name in the
    server's certificate, None = that of the URL.
    """

    anchors: Sequence[Certificate] = ()
    system: bool = True
    certificate: Path | None = None
    key: Path | None = None
    passphrase: bytes | None = field(default=None, repr=False)
    host: str | None = None

    @property
    def own(self) -> Certificate | None:
        """The client's certificate; ClientError or OSError if it cannot be read."""
        return None if self.certificate is None else load_certificates(self.certificate)[0]

    def context(self) -> ssl.SSLContext:
        """What asyncio and aiohttp take; ClientError or OSError if the files cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which checks certificate and name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an anchor need not be self-signed
        if self.system:
            context.load_default_certs()
        if self.anchors:
            context.load_verify_locations(cadata=b"".join(one.der for one in self.anchors))
        if self.certificate is not None and self.key is not None:
            # This says what is wrong with the key; OpenSSL would ask for a passphrase at the terminal.
            keys.load_key(self.key, self.passphrase, option="--tls-key-passphrase-file")
            try:
                context.load_cert_chain(self.certificate, self.key, lambda: self.passphrase or b"")
            except ssl.SSLError as error:
                wanted = f"want a certificate in PEM, and in {self.key} its private key in PEM"
                raise ClientError(f"{self.certificate}: {wanted} ({error.reason or error})") from None
        return context


def explain(error: BaseException) -> str:
    """One line on why there is no TLS connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = _VERIFY_HINTS.get(error.verify_code, "")
        return f"TLS: the server's certificate is not to be trusted: {error.verify_message.rstrip('.')}{hint}"
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "no reason given"
        return f"TLS: {_HINTS.get(reason, reason.lower().replace('_', ' '))}"
    return f"TLS: {error}"


def why(error: OSError, *, tls: bool) -> str:
    """Why no connection came about, with what to look at. `tls`: it was to be one with TLS."""
    if tls and isinstance(error, ConnectionError) and error.errno is None:  # asyncio's word for "hung up"
        return HUNG_UP
    # asyncio tells of a failed connect() in words of its own, and of several at once without a number.
    if error.errno is None or isinstance(error, socket.gaierror):
        reason = error.strerror or str(error) or type(error).__name__
    else:
        reason = os.strerror(error.errno)
    return f"{reason} (is a CMP server running there?)"
