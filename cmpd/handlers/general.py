"""genm -> genp (RFC 9810 sections 5.3.19 to 5.3.20): one coroutine per infoType in INFO_TYPES.

Every item is answered in the order of the request; what is not in the table is listed in one unsupportedOIDs item at
the end. An empty GenMsgContent asks for what there is (RFC 9810 appendix D.5): the encryption certificate and the CRL.

An answer that only reads is made anew for a repeated request and not stored: a CRL may have megabytes. A revocation
passphrase, here or in the header, opens and ends the transaction in the one unit that keeps passphrase and answer.
"""

from collections.abc import Awaitable, Callable
from dataclasses import field
from typing import Any, Final

from cmpd.asn1 import der
from cmpd.asn1.cmp import CRLStatusList
from cmpd.asn1.der import DerError
from cmpd.asn1.names import directory_name, same_name
from cmpd.asn1.oids import contents
from cmpd.asn1.strict import load_strict
from cmpd.changes import Change, OpenTransaction
from cmpd.config_status import CRL_PATH
from cmpd.errors import BadDataFormat, BadRequest, TransactionIdInUse
from cmpd.frozen import frozen
from cmpd.handlers.base import Context, Reply
from cmpd.handlers.passphrase import receive
from cmpd.message import BODY_TYPES, ID_IT_REV_PASSPHRASE, InfoTypeAndValue
from cmpd.records import TransactionState
from cmpd.requests import read_time
from cmpd.strictness import RULES
from cmpd.transaction import ID_IN_USE

MAX_ITEMS: Final = 16
"""Most items of one genm, and most sources in one crlStatusList."""

ID_IT_CA_PROT_ENC_CERT: Final = contents("1.3.6.1.5.5.7.4.1")
ID_IT_CURRENT_CRL: Final = contents("1.3.6.1.5.5.7.4.6")
ID_IT_UNSUPPORTED_OIDS: Final = contents("1.3.6.1.5.5.7.4.7")
ID_IT_CRL_STATUS_LIST: Final = contents("1.3.6.1.5.5.7.4.22")
ID_IT_CRLS: Final = contents("1.3.6.1.5.5.7.4.23")

_URI: Final = 0x86


@frozen
class _Answer:
    """The InfoTypeAndValue (DER) that answers one of a genm, and what must be durable before it is sent."""

    item: bytes = field(repr=False)
    changes: tuple[Change, ...] = ()


async def handle(context: Context) -> Reply:
    """The answer to a genm. What cannot be read, or is wrong for its infoType, is refused as a whole."""
    envelope = context.request.envelope
    asked = _read(envelope.body, context.strict)
    items = asked or _everything(context)
    answers = [await INFO_TYPES[item.type](context, item.value) for item in items if item.type in INFO_TYPES]
    unknown = [der.tlv(der.OID, item.type) for item in items if item.type not in INFO_TYPES]
    if unknown:
        answers.append(_Answer(_item(ID_IT_UNSUPPORTED_OIDS, der.seq(*unknown))))
    changes = [change for answer in answers for change in answer.changes]
    if any(item.type == ID_IT_REV_PASSPHRASE for item in (*items, *envelope.header.general_info)):
        changes.insert(0, OpenTransaction(context.transaction()))
    else:
        await _check_id(context)
    return Reply(BODY_TYPES["genp"], der.seq(*(answer.item for answer in answers)), tuple(changes))


async def _check_id(context: Context) -> None:
    """What only reads claims no transactionID, but must not have that of another operation (RFC 9483 section 5.1)."""
    record = await context.service.store.find_transaction(context.transaction_id)
    if record is not None and record.state is not TransactionState.ENDED:
        raise TransactionIdInUse(ID_IN_USE)


def _read(body: bytes, strict: bool) -> tuple[InfoTypeAndValue, ...]:
    """The items of a GenMsgContent; BadDataFormat, BadRequest."""
    try:
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "genm")
        found = der.children(body, start, stop)
        RULES["a genm has at most one infoType"].hold(
            strict, len(found) < 2, f"GenMsgContent: want one infoType, have {len(found)}"
        )
        if len(found) > MAX_ITEMS:
            raise BadRequest(f"GenMsgContent: want at most {MAX_ITEMS} infoTypes, have {len(found)}")
        items = tuple(_read_item(body, *child) for child in found)
    except DerError as fault:
        raise BadDataFormat(f"GenMsgContent: {fault}") from None
    known = [item.type for item in items if item.type in INFO_TYPES]
    if len(set(known)) != len(known):
        raise BadDataFormat("GenMsgContent: want each infoType once, have one twice")
    return items


def _read_item(data: bytes, tag: int, _pos: int, start: int, stop: int) -> InfoTypeAndValue:
    if tag != der.SEQUENCE:
        raise DerError(f"want InfoTypeAndValue, have tag {tag:02X}")
    first, last = der.expect(data, start, stop, der.OID, "infoType")
    if last != stop and der.header(data, last, stop)[2] != stop:
        raise DerError("more than one infoValue")
    return InfoTypeAndValue(data[first:last], data[last:stop] or None)


def _everything(context: Context) -> tuple[InfoTypeAndValue, ...]:
    """What an empty GenMsgContent asks for."""
    service = context.service
    there = {
        ID_IT_CA_PROT_ENC_CERT: service.recipient is not None,
        ID_IT_CURRENT_CRL: service.crls is not None and service.crls.full is not None,
    }
    return tuple(InfoTypeAndValue(oid, None) for oid, present in there.items() if present)


def _item(oid: bytes, value: bytes | None) -> bytes:
    return der.seq(der.tlv(der.OID, oid), value or b"")


# --- one infoType each ------------------------------------------------------------------------------------------------


def _want_absent(value: bytes | None, noun: str) -> None:
    if value is not None:
        raise BadDataFormat(f"{noun}: want no infoValue in genm, have one")


async def _encryption_certificate(context: Context, value: bytes | None) -> _Answer:
    """Section 5.3.19.1: absent if the server has none."""
    _want_absent(value, "caProtEncCert")
    recipient = context.service.recipient
    return _Answer(_item(ID_IT_CA_PROT_ENC_CERT, None if recipient is None else recipient.certificate))


async def _current_crl(context: Context, value: bytes | None) -> _Answer:
    """Section 5.3.19.6, which has no answer for a server without CRL; absent says so."""
    _want_absent(value, "currentCRL")
    return _Answer(_item(ID_IT_CURRENT_CRL, _crl(context)))


async def _newer_crls(context: Context, value: bytes | None) -> _Answer:
    """Section 5.3.19.17: the CRL if one of the sources means it and what the client has of it is older; else absent."""
    if value is None:
        raise BadDataFormat("crlStatusList: want CRLStatusList, have no infoValue")
    statuses = load_strict(CRLStatusList, value, noun="crlStatusList")
    RULES["crlStatusList has one source"].hold(
        context.strict, len(statuses) == 1, f"crlStatusList: want one source, have {len(statuses)}"
    )
    if len(statuses) > MAX_ITEMS:
        raise BadRequest(f"crlStatusList: want at most {MAX_ITEMS} sources, have {len(statuses)}")
    crl = _crl(context)
    if crl is None:
        return _Answer(_item(ID_IT_CRLS, None))
    issued_at = _this_update(crl)
    try:
        wanted = any(
            _means(status["source"], context.service.ca.name) and _held(status) < issued_at for status in statuses
        )
    except DerError as fault:
        raise BadDataFormat(f"crlStatusList: {fault}") from None
    return _Answer(_item(ID_IT_CRLS, der.seq(crl) if wanted else None))


async def _revocation_passphrase(context: Context, value: bytes | None) -> _Answer:
    """Section 5.3.19.9: the OID alone says that it is kept."""
    return _Answer(_item(ID_IT_REV_PASSPHRASE, None), (await receive(context, value),))


INFO_TYPES: Final[dict[bytes, Callable[[Context, bytes | None], Awaitable[_Answer]]]] = {
    ID_IT_CA_PROT_ENC_CERT: _encryption_certificate,
    ID_IT_CURRENT_CRL: _current_crl,
    ID_IT_REV_PASSPHRASE: _revocation_passphrase,
    ID_IT_CRL_STATUS_LIST: _newer_crls,
}
"""(context, DER of infoValue or None) -> the answer, by the contents octets of infoType."""


# --- CRLs -------------------------------------------------------------------------------------------------------------


def _crl(context: Context) -> bytes | None:
    return None if context.service.crls is None else context.service.crls.full


def _this_update(crl: bytes) -> int:
    """Unix time of thisUpdate of a CertificateList of ours; before it are version, signature and issuer."""
    start, stop = der.expect(crl, 0, len(crl), der.SEQUENCE, "CertificateList")
    start, stop = der.expect(crl, start, stop, der.SEQUENCE, "tbsCertList")
    for _ in range(3):
        start = der.header(crl, start, stop)[2]
    return read_time(crl, start, der.header(crl, start, stop)[2], "thisUpdate")


def _held(status: Any) -> float:
    """The thisUpdate of what the client has, in Unix seconds; before all time if it has none."""
    octets = status["this_update"].dump()
    return read_time(octets, 0, len(octets), "thisUpdate") if octets else float("-inf")


def _means(source: Any, ca_name: bytes) -> bool:
    """Whether a CRLSource is this CA by name, or what its certificates name: any URL whose path is the CRL's.

    There is one CRL only. Under which host it is published may have changed since, so that is not compared.
    """
    names = source.chosen
    if source.name == "dpn":
        names = names.chosen if names.name == "full_name" else ()
    for name in names:
        octets = name.dump()
        tag, start, stop = der.header(octets, 0, len(octets))
        if tag == _URI and octets[start:stop].endswith(CRL_PATH.encode()):
            return True
        own = directory_name(octets)
        if own is not None and same_name(own, ca_name):
            return True
    return False
