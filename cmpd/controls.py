"""May this request be granted for what its controls say? regToken and authenticator (RFC 4211 sections 6.1 and 6.2).

Both are a second thing to know, beside the key of the protection: what was registered with one grants only a request
that has it. regToken is for one time, which is what an entity's uses count (one, unless the operator says more). RFC
4211 has it in the first request alone, so it is asked of whoever uses the registered credential, and not of those who
hold a certificate by it: for them credentials.py puts nothing into Entity.controls. A kur is for them too. A cr with
the registered credential must have it as an ir must, or sending a cr would be the way around it; so a p10cr, which has
no controls, is refused.

RFC 9810 names neither: what it says of controls is about other ones (altCertTemplate, and algId and rsaKeyLen of
section 5.3.19.16).
"""

import hmac
import logging
from functools import lru_cache
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.errors import BadDataFormat, NotAuthorized
from cmpd.records import RegisteredControls, Requester
from cmpd.requests import ID_REG_CTRL_AUTHENTICATOR, ID_REG_CTRL_REG_TOKEN, CertRequest

_log = logging.getLogger("cmpd.controls")

_OIDS: Final = {"regToken": ID_REG_CTRL_REG_TOKEN, "authenticator": ID_REG_CTRL_AUTHENTICATOR}
_NOTHING: Final = RegisteredControls()


def check_controls(request: CertRequest, body: str, requester: Requester) -> None:
    """Hold regToken and authenticator against what is registered. NotAuthorized: one is missing or another one.

    BadDataFormat: one is no UTF8String, whether it is registered or not. Texts never have a value in them.
    """
    registered = requester.entity.controls
    if registered is None and not request.controls:
        return
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
