"""May this request be granted for what its controls say (RFC 4211 section 6)? And what is not done of them.

regToken and authenticator (sections 6.1 and 6.2) are a second thing to know, beside the key of the protection: what was
registered with one grants only a request that has it. regToken is for one time, which is what an entity's uses count
(one, unless the operator says more). RFC 4211 has it in the first request alone, so it is asked of whoever uses the
registered credential, and not of those who hold a certificate by it: for them credentials.py puts nothing into
Entity.controls. A kur is for them too. A cr with the registered credential must have it as an ir must, or sending a cr
would be the way around it; so a p10cr, which has no controls, is refused.

altCertTemplate asks for something else than an X.509 certificate (RFC 9810 section 5.2.1), so it is refused.
pkiArchiveOptions and regInfo's certReq change what the requester gets: of the one it is told that nothing is archived,
the other has the template that counts. All other controls are ignored.
"""

import hmac
import logging
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.errors import BadCertTemplate, BadDataFormat, NotAuthorized
from cmpd.records import RegisteredControls, Requester
from cmpd.requests import (
    ID_REG_CTRL_ALT_CERT_TEMPLATE,
    ID_REG_CTRL_AUTHENTICATOR,
    ID_REG_CTRL_PKI_ARCHIVE_OPTIONS,
    ID_REG_CTRL_REG_TOKEN,
    CertRequest,
)

_log = logging.getLogger("cmpd.controls")

_OIDS: Final = {"regToken": ID_REG_CTRL_REG_TOKEN, "authenticator": ID_REG_CTRL_AUTHENTICATOR}
_NOTHING: Final = RegisteredControls()

_ARCHIVE_CHOICES: Final = frozenset({0xA0, 0x81, 0x82})
_NO_ARCHIVAL: Final = b"\x82\x01\0"  # archiveRemGenPrivKey FALSE


def check_controls(request: CertRequest, body: str, requester: Requester) -> None:
    """Hold regToken and authenticator against what is registered. NotAuthorized: one is missing or another one.

    BadDataFormat: one is no UTF8String, whether it is registered or not. BadCertTemplate: altCertTemplate is there.
    Texts never have a value in them.
    """
    registered = requester.entity.controls
    if registered is None and not request.controls:
        return
    if ID_REG_CTRL_ALT_CERT_TEMPLATE in request.controls:
        raise BadCertTemplate(
            "controls.altCertTemplate: want none, this CA issues X.509 certificates alone; have one "
            "(RFC 9810 section 5.2.1)"
        )
    given = {name: _octets(name, request.controls[oid]) for name, oid in _OIDS.items() if oid in request.controls}
    held = registered or _NOTHING
    wanted = {"regToken": held.reg_token, "authenticator": held.authenticator}
    if any(wanted[name] is None for name in given):
        _tell_of_ignored(requester.entity.reference)
    if body == "kur":
        return
    for name, value in wanted.items():
        if value is not None:
            _check(name, value, given.get(name), body)


def with_modifications(request: CertRequest) -> CertRequest:
    """The request with the template that regInfo's certReq puts in place of the signed one (RFC 4211 section 7.2).

    BadCertTemplate unless it is for the same key, of which possession is proven.
    """
    if request.modified is None:
        return request
    if request.modified.public_key != request.template.public_key:
        raise BadCertTemplate(
            "regInfo.certReq: want the publicKey of the CertRequest beside it, have another (RFC 4211 section 7.2)"
        )
    return replace(request, template=request.modified)


def unused_wishes(request: CertRequest) -> tuple[str, ...]:
    """What the requester wants by its controls and does not get, in words for it (grantedWithMods). BadDataFormat."""
    archive = request.controls.get(ID_REG_CTRL_PKI_ARCHIVE_OPTIONS)
    if archive is None or archive == _NO_ARCHIVAL:
        return ()
    if archive[0] not in _ARCHIVE_CHOICES:
        raise BadDataFormat(
            f"controls.pkiArchiveOptions: want PKIArchiveOptions, have tag {archive[0]:02X} (RFC 4211 section 6.4)"
        )
    return ("no private key is archived",)


def _check(name: str, wanted: bytes, given: bytes | None, body: str) -> None:
    if body == "p10cr":
        raise NotAuthorized(f"p10cr: want {name}, which only an ir or cr can have, have none (RFC 4211 section 6)")
    if given is None:
        raise NotAuthorized(f"controls: want {name}, which is registered for the requester (RFC 4211 section 6)")
    if not hmac.compare_digest(given, wanted):
        raise NotAuthorized(f"controls: {name} is not the one that is registered for the requester")


def _octets(name: str, value: bytes) -> bytes:
    """The UTF-8 of a control's value (DER)."""
    try:
        start, stop = der.expect(value, 0, len(value), der.UTF8_STRING, name)
        if stop != len(value):
            raise DerError(f"{name}: want one value")
        value[start:stop].decode()
    except DerError as fault:
        raise BadDataFormat(f"controls: {fault}") from None
    except UnicodeDecodeError:
        raise BadDataFormat(f"controls: {name} is not UTF-8") from None
    return value[start:stop]


@lru_cache(maxsize=4096)
def _tell_of_ignored(reference: str) -> None:
    """Log it; the cache keeps it to once for each reference (while it stays among the last 4096)."""
    _log.info("entity %r sends a regToken or authenticator that is not asked of it: not looked at", reference)
