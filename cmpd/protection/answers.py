"""Answers as octets: header, body and protection (RFC 9810 section 5.1).

The header's fields come from the request that is answered, as far as it could be read.
"""

import logging

from cmpd.asn1.der import SEQUENCE, tlv
from cmpd.env import Env
from cmpd.errors import CmpError
from cmpd.message import (
    HIGHEST_PVNO,
    LOWEST_PVNO,
    NULL_DN,
    Header,
    ReplyHeader,
    encode_message,
    encode_protected_part,
)
from cmpd.protection.base import Protector
from cmpd.replies import error_body, pkiconf_body

_log = logging.getLogger("cmpd.responder")


async def protect(
    header: ReplyHeader, body_type: int, body: bytes, protector: Protector, extra_certs: tuple[bytes, ...] = ()
) -> bytes:
    """A PKIMessage (DER) with this header and body. `extra_certs` come after those of the protection."""
    if protector.renewed is not None:
        protector = protector.renewed()
    part = encode_protected_part(
        header,
        body_type,
        body,
        sender=protector.sender,
        algorithm=protector.algorithm,
        sender_kid=protector.sender_kid,
    )
    certificates = tuple(dict.fromkeys((*protector.extra_certs, *extra_certs)))
    protection = None if protector.algorithm is None else await protector.compute(tlv(SEQUENCE, part))
    return encode_message(part, protection, certificates)


async def error_message(fault: CmpError, request: Header | None, protector: Protector, env: Env) -> bytes:
    """An error message (RFC 9483 section 3.6.4) that carries whatever could be read of the request's header.

    Unprotected if the key that should protect it does not work; that is better than silence.
    """
    body_type, body = error_body(fault)
    header = _header(request, env)
    try:
        return await protect(header, body_type, body, protector)
    except Exception:
        _log.exception("an error message goes unprotected")
        part = encode_protected_part(header, body_type, body, sender=protector.sender, algorithm=None, sender_kid=None)
        return encode_message(part, None, ())


async def pkiconf_message(request: Header, protector: Protector, env: Env) -> bytes:
    """A pkiconf."""
    return await protect(_header(request, env), *pkiconf_body(), protector)


def _header(request: Header | None, env: Env) -> ReplyHeader:
    pvno = LOWEST_PVNO if request is None else min(max(request.pvno, LOWEST_PVNO), HIGHEST_PVNO)
    return ReplyHeader(
        pvno=pvno,
        recipient=NULL_DN if request is None else request.sender,
        message_time=env.now(),
        transaction_id=None if request is None else request.transaction_id,
        sender_nonce=env.random(16),
        recip_nonce=None if request is None else request.sender_nonce,
    )
