"""One coroutine per request body: HANDLERS. A body that is not here is answered with badRequest."""

from typing import Final

from cmpd.handlers import cert_req, challenge, confirm, general, polling, revoke
from cmpd.handlers.base import Handler
from cmpd.protection.base import VerifiedRequest

HANDLERS: Final[dict[str, Handler]] = {
    "ir": cert_req.handle,
    "cr": cert_req.handle,
    "p10cr": cert_req.handle,
    "kur": cert_req.handle,
    "rr": revoke.handle,
    "genm": general.handle,
    "certConf": confirm.handle_cert_conf,
    "pkiconf": confirm.handle_pkiconf,
    "error": confirm.handle_error,
    "pollReq": polling.handle,
    "popdecr": challenge.handle,
}

ANNOUNCEMENTS: Final = frozenset({"ckuann", "cann", "rann", "crlann"})
"""Bodies that have no answer in CMP (RFC 9810 sections 5.3.13 to 5.3.16); cmpd takes note of them in its log."""


def handler_of(verified: VerifiedRequest) -> Handler:
    """What answers a request whose body is in HANDLERS."""
    return HANDLERS[verified.envelope.body_name] if verified.kem_fault is None else confirm.handle_kem_fault
