"""PKIMessage: DER in, Envelope out; header, body and protection in, DER out (RFC 9810 section 5.1).

decode() reads the header by position and leaves the body as octets for bodies.py. All of it is checked to be DER first,
so nothing lazy or malformed is left behind this border. What protection is verified over is made of the received
octets, never of a re-encoding. When a message cannot be read, the fields that were read before the fault are kept
(Undecodable.header), so that the answer still reaches the right transaction. messageTime alone may be in a form that is
not DER: whether a door takes that is for check_header to say, which knows the door (transaction.py).
"""

from contextlib import suppress
from dataclasses import field
from functools import lru_cache
from typing import Any, Final

from cmpd.asn1 import der
from cmpd.asn1.cmp import PKIMessage
from cmpd.asn1.der import DerError
from cmpd.asn1.general_names import read_general_name
from cmpd.asn1.oids import contents
from cmpd.asn1.times import any_time
from cmpd.errors import BadDataFormat
from cmpd.frozen import frozen

NULL_DN: Final = b"\xa4\x02\x30\x00"
"""GeneralName directoryName with the empty Name (RFC 9810 section 5.1.1)."""

LOWEST_PVNO: Final = 2
HIGHEST_PVNO: Final = 3

ID_IT_IMPLICIT_CONFIRM: Final = contents("1.3.6.1.5.5.7.4.13")
ID_IT_CONFIRM_WAIT_TIME: Final = contents("1.3.6.1.5.5.7.4.14")
ID_IT_REV_PASSPHRASE: Final = contents("1.3.6.1.5.5.7.4.12")
ID_IT_CERT_PROFILE: Final = contents("1.3.6.1.5.5.7.4.21")

BODY_NAMES: Final = (
    *("ir", "ip", "cr", "cp", "p10cr", "popdecc", "popdecr", "kur", "kup", "krr", "krp", "rr", "rp", "ccr", "ccp"),
    *("ckuann", "cann", "rann", "crlann", "pkiconf", "nested", "genm", "genp", "error", "certConf", "pollReq"),
    "pollRep",
)
"""PKIBody's alternatives by their tag numbers 0 to 26."""

BODY_TYPES: Final = {name: number for number, name in enumerate(BODY_NAMES)}

MAX_IDENTIFIER: Final = 512
"""Longest senderKID, recipKID, transactionID or nonce that is read, in octets."""

_MAX_HEADER_FIELDS = 32  # that are looked at when a header cannot be read; it has 12
_MAX_GENERAL_INFO = 64
_MAX_EXTRA_CERTS = 32
_CACHED_VALUE = 256  # octets of a header field; longer ones are read anew each time: bounds the memory of the caches
_CACHED_EXTRA_CERTS = 4096  # longer extraCerts are split anew each time: bounds the memory of the cache


class OddTime(int):
    """Unix seconds of a messageTime that RFC 9810 section 5.2.9 does not allow: a UTCTime, with fractions or an offset,
    or without seconds or zone.
    """


@frozen
class InfoTypeAndValue:
    """One item of generalInfo: `type` is the OID's contents octets, `value` the DER of infoValue or None."""

    type: bytes
    value: bytes | None


@frozen
class Header:
    """PKIHeader (RFC 9810 section 5.1.1). GeneralNames and the AlgorithmIdentifier are whole DER values."""

    pvno: int
    sender: bytes = NULL_DN
    recipient: bytes = NULL_DN
    message_time: int | None = None  # Unix seconds; an OddTime if it is in no form of DER
    protection_alg: bytes | None = None
    sender_kid: bytes | None = None
    recip_kid: bytes | None = None
    transaction_id: bytes | None = None
    sender_nonce: bytes | None = None
    recip_nonce: bytes | None = None
    general_info: tuple[InfoTypeAndValue, ...] = ()

    def info(self, oid: bytes) -> InfoTypeAndValue | None:
        """The first item of generalInfo with this type (contents octets of the OID)."""
        for item in self.general_info:
            if item.type == oid:
                return item
        return None

    @property
    def implicit_confirm(self) -> bool:
        """Whether implicitConfirm is in generalInfo, with its NULL (RFC 9810 section 5.1.1.1)."""
        item = self.info(ID_IT_IMPLICIT_CONFIRM)
        if item is not None and item.value not in (der.NULL_TLV, None):
            raise BadDataFormat("generalInfo implicitConfirm: want NULL, have another value (RFC 9810 section 5.1.1.1)")
        return item is not None

    def check_confirm_wait_time(self) -> None:
        """BadDataFormat if confirmWaitTime is in generalInfo and is no GeneralizedTime (RFC 9810 section 5.1.1.2)."""
        item = self.info(ID_IT_CONFIRM_WAIT_TIME)
        if item is None:
            return
        value = item.value or b""
        try:
            _read_time(value, 0, len(value), "confirmWaitTime")
        except DerError as fault:
            raise BadDataFormat(f"generalInfo: {fault} (RFC 9810 section 5.1.1.2)") from None

    @property
    def cert_profiles(self) -> tuple[str, ...]:
        """The names in generalInfo certProfile, empty if it is absent (RFC 9810 section 5.1.1.4)."""
        item = self.info(ID_IT_CERT_PROFILE)
        if item is None:
            return ()
        try:
            value = item.value or b""
            start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "certProfile")
            names = []
            for tag, _, inner, after in der.children(value, start, stop, 64):
                if tag != der.UTF8_STRING:
                    raise DerError(f"certProfile: want UTF8String, have tag {tag:02X}")
                names.append(value[inner:after].decode())
            if not names or stop != len(value):
                raise DerError("certProfile: want one SEQUENCE of at least one UTF8String, have another value")
        except DerError as fault:
            raise BadDataFormat(f"generalInfo: {fault} (RFC 9810 section 5.1.1.4)") from None
        return tuple(names)


@frozen
class Envelope:
    """A PKIMessage taken apart. `protected` is the DER of ProtectedPart made of the received header and body octets."""

    der: bytes = field(repr=False)
    header: Header
    body_type: int  # the context tag number of PKIBody, 0 (ir) to 26 (pollRep)
    body: bytes = field(repr=False)  # DER of the alternative's value, without the explicit tag
    protected: bytes = field(repr=False)
    protection: bytes | None = field(repr=False)  # the octets of the BIT STRING
    extra_certs: tuple[bytes, ...] = field(repr=False)  # DER of each certificate, in the order received

    @property
    def body_name(self) -> str:
        """The alternative of PKIBody as spelt in the RFC."""
        return BODY_NAMES[self.body_type]

    @property
    def structure(self) -> Any:
        """The message as an asn1crypto PKIMessage, lazy: nothing is decoded until it is looked at."""
        return PKIMessage.load(self.der)


class Undecodable(BadDataFormat):
    """The octets are no PKIMessage; `header` has what could be read of it, None if not even pvno could."""

    def __init__(self, text: str, header: Header | None) -> None:
        super().__init__(text)
        self.header = header


def decode(octets: bytes) -> Envelope:
    """Read a PKIMessage strictly. Raises Undecodable (badDataFormat)."""
    fields: dict[str, Any] = {}
    try:
        return _decode(octets, fields)
    except DerError as fault:
        _salvage(octets, fields)
        header = Header(**fields) if "pvno" in fields else None
        text = str(fault)
        raise Undecodable(
            f"PKIMessage: {text if 'want' in text else f'want its DER, have a fault: {text}'}", header
        ) from None


def _salvage(data: bytes, fields: dict[str, Any]) -> None:
    """Adds what says to whom and to which message an answer belongs, where it can be read in spite of the fault."""
    with suppress(DerError):
        start, stop = _open(data, *_open(data, 0, len(data)))
        if not fields:  # the fault is around the header
            with suppress(DerError):
                _read_header(data, start, stop, fields)
        for _ in range(_MAX_HEADER_FIELDS):
            tag, inner, after = der.header(data, start, stop)
            start = after
            name, noun, read = _HEADER_FIELDS.get(tag, ("", "", _read_octets))
            if name not in ("transaction_id", "sender_nonce") or name in fields:
                continue
            with suppress(DerError):  # a directoryName has the tag of transactionID, and other contents
                fields[name] = read(data, inner, after, noun)
                fields.setdefault("pvno", LOWEST_PVNO)


def _open(data: bytes, pos: int, end: int) -> tuple[int, int]:
    """(start, stop) of the contents of a SEQUENCE, as much as there is of it, however its length is encoded."""
    if pos + 2 > end or data[pos] != der.SEQUENCE:
        raise DerError("want a SEQUENCE, have none")
    size, start = data[pos + 1], pos + 2
    if size >= 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[pos + 2 : start], "big") or end  # indefinite: to the end of what contains it
    return start, min(start + size, end)


def _decode(data: bytes, fields: dict[str, Any]) -> Envelope:
    start, stop = der.expect(data, 0, len(data), der.SEQUENCE, "PKIMessage")
    if stop != len(data):
        raise DerError(f"want nothing after its end, have {len(data) - stop} octets")
    header_start, header_stop = der.expect(data, start, stop, der.SEQUENCE, "header")
    _read_header(data, header_start, header_stop, fields)
    tag, body_start, body_stop = der.header(data, header_stop, stop)
    if not 0xA0 <= tag <= 0xA0 + 26:
        raise DerError(f"body: want a tag from A0 to BA, have {tag:02X}")
    der.check(data, body_start, body_stop)
    if der.header(data, body_start, body_stop)[2] != body_stop:
        raise DerError("body: want one value, have more")
    protection, extra_certs = _read_tail(data, body_stop, stop)
    return Envelope(
        der=data,
        header=Header(**fields),
        body_type=tag - 0xA0,
        body=data[body_start:body_stop],
        protected=der.tlv(der.SEQUENCE, data[start:body_stop]),
        protection=protection,
        extra_certs=extra_certs,
    )


def _read_tail(data: bytes, pos: int, end: int) -> tuple[bytes | None, tuple[bytes, ...]]:
    protection = None
    extra_certs: tuple[bytes, ...] = ()
    if pos < end and data[pos] == 0xA0:
        _, start, pos = der.header(data, pos, end)
        inner, after = der.expect(data, start, pos, der.BIT_STRING, "protection")
        if after != pos:
            raise DerError("protection: want one value, have more")
        protection = der.octet_aligned(data, inner, after, "protection")
    if pos < end and data[pos] == 0xA1:
        _, start, pos = der.header(data, pos, end)
        octets = data[start:pos]
        split = _split_certificates if len(octets) <= _CACHED_EXTRA_CERTS else _split_certificates.__wrapped__
        extra_certs = split(octets)
    if pos != end:
        raise DerError("want nothing after protection [0] and extraCerts [1], have more, or another order")
    return protection, extra_certs


@lru_cache(maxsize=1024)
def _split_certificates(octets: bytes) -> tuple[bytes, ...]:
    """The certificates in the value of extraCerts; the same few chains arrive again and again."""
    der.check(octets, 0, len(octets))
    start, stop = der.expect(octets, 0, len(octets), der.SEQUENCE, "extraCerts")
    items = _children(octets, start, stop, _MAX_EXTRA_CERTS, "extraCerts")
    if stop != len(octets) or not items or any(tag != der.SEQUENCE for tag, *_ in items):
        raise DerError("extraCerts: want a SEQUENCE of at least one Certificate, have another value")
    return tuple(octets[pos:after] for _, pos, _, after in items)


# --- PKIHeader -----------------------------------------------------------------------------------------------------


def _read_header(data: bytes, pos: int, end: int, fields: dict[str, Any]) -> None:
    start, stop = der.expect(data, pos, end, der.INTEGER, "pvno")
    fields["pvno"] = der.integer(data, start, stop, "pvno")
    pos = stop
    for name in ("sender", "recipient"):
        fields[name] = read_general_name(data, pos, end, name, of_any_kind=name == "recipient")
        pos += len(fields[name])
    before = 0
    while pos < end:
        tag, start, stop = der.header(data, pos, end)
        row = _HEADER_FIELDS.get(tag)
        if row is None or tag <= before:
            raise DerError(f"header: want fields with the tags A0 to A8, in their order and each once, have {tag:02X}")
        name, noun, read = row
        value = read(data, start, stop, noun)
        if name:
            fields[name] = value
        before, pos = tag, stop


def _only(data: bytes, pos: int, end: int, tag: int, noun: str) -> tuple[int, int]:
    """(start, stop) of the contents of the one value with `tag` that fills [pos, end)."""
    start, stop = der.expect(data, pos, end, tag, noun)
    if stop != end:
        raise DerError(f"{noun}: want one value, have more")
    return start, stop


def _children(data: bytes, start: int, stop: int, limit: int, noun: str) -> list[tuple[int, int, int, int]]:
    items = der.children(data, start, stop)
    if len(items) > limit:
        raise DerError(f"{noun}: want at most {limit} values, have {len(items)}")
    return items


def _read_time(data: bytes, pos: int, end: int, noun: str) -> int:
    return der.generalized_time(data, *_only(data, pos, end, der.GENERALIZED_TIME, noun), noun)


def _read_message_time(data: bytes, pos: int, end: int, noun: str) -> int:
    with suppress(DerError):
        return _read_time(data, pos, end, noun)
    tag, start, stop = der.header(data, pos, end)
    if stop != end:
        raise DerError(f"{noun}: want one value, have more")
    return OddTime(any_time(data, tag, start, stop, noun))


def _read_algorithm(data: bytes, pos: int, end: int, noun: str) -> bytes:
    if end - pos <= _CACHED_VALUE:
        return _check_algorithm(data[pos:end], noun)
    return _check_algorithm.__wrapped__(data[pos:end], noun)


@lru_cache(maxsize=1024)
def _check_algorithm(octets: bytes, noun: str) -> bytes:
    der.check(octets, 0, len(octets))
    start, stop = _only(octets, 0, len(octets), der.SEQUENCE, noun)
    der.expect(octets, start, stop, der.OID, noun)
    return octets


def _read_octets(data: bytes, pos: int, end: int, noun: str) -> bytes:
    start, stop = _only(data, pos, end, der.OCTET_STRING, noun)
    if stop - start > MAX_IDENTIFIER:
        raise DerError(f"{noun}: want at most {MAX_IDENTIFIER} octets, have {stop - start}")
    return data[start:stop]


def _read_free_text(data: bytes, pos: int, end: int, noun: str) -> None:
    start, stop = _only(data, pos, end, der.SEQUENCE, noun)
    der.check(data, start, stop)
    items = der.children(data, start, stop)
    if not items or any(tag != der.UTF8_STRING for tag, *_ in items):
        raise DerError(f"{noun}: want a SEQUENCE of at least one UTF8String, have another value")


def _read_general_info(data: bytes, pos: int, end: int, noun: str) -> tuple[InfoTypeAndValue, ...]:
    split = _split_general_info if end - pos <= _CACHED_VALUE else _split_general_info.__wrapped__
    return split(data[pos:end], noun)


@lru_cache(maxsize=1024)  # nearly always implicitConfirm, or a profile's name
def _split_general_info(data: bytes, noun: str) -> tuple[InfoTypeAndValue, ...]:
    start, stop = _only(data, 0, len(data), der.SEQUENCE, noun)
    der.check(data, start, stop)
    found = []
    for tag, _, inner, after in _children(data, start, stop, _MAX_GENERAL_INFO, noun):
        if tag != der.SEQUENCE:
            raise DerError(f"{noun}: want InfoTypeAndValue, have tag {tag:02X}")
        oid_start, oid_stop = der.expect(data, inner, after, der.OID, noun)
        if oid_stop != after and der.header(data, oid_stop, after)[2] != after:
            raise DerError(f"{noun}: want one infoValue, have more")
        found.append(InfoTypeAndValue(data[oid_start:oid_stop], data[oid_stop:after] or None))
    if not found:
        raise DerError(f"{noun}: want at least one InfoTypeAndValue, have none")
    return tuple(found)


_HEADER_FIELDS: Final = {
    0xA0: ("message_time", "messageTime", _read_message_time),
    0xA1: ("protection_alg", "protectionAlg", _read_algorithm),
    0xA2: ("sender_kid", "senderKID", _read_octets),
    0xA3: ("recip_kid", "recipKID", _read_octets),
    0xA4: ("transaction_id", "transactionID", _read_octets),
    0xA5: ("sender_nonce", "senderNonce", _read_octets),
    0xA6: ("recip_nonce", "recipNonce", _read_octets),
    0xA7: ("", "freeText", _read_free_text),  # checked, and read by nobody
    0xA8: ("general_info", "generalInfo", _read_general_info),
}


# --- writing -------------------------------------------------------------------------------------------------------


@frozen
class ReplyHeader:
    """What an answer's header says beyond its protection. Octet strings are plain values; None is left out.

    `confirm_wait`: Unix seconds until which certConf is awaited. `recipient`: DER of a GeneralName.
    """

    pvno: int
    recipient: bytes
    message_time: float
    transaction_id: bytes | None
    sender_nonce: bytes
    recip_nonce: bytes | None
    implicit_confirm: bool = False
    confirm_wait: float | None = None
    rev_passphrase: bool = False  # a revocation passphrase was taken from the request's header (RFC 9810 appendix B)


_IMPLICIT_CONFIRM_INFO = der.seq(der.tlv(der.OID, ID_IT_IMPLICIT_CONFIRM), der.NULL_TLV)
_REV_PASSPHRASE_INFO = der.seq(der.tlv(der.OID, ID_IT_REV_PASSPHRASE))
_CONFIRM_WAIT_TYPE = der.tlv(der.OID, ID_IT_CONFIRM_WAIT_TIME)


def encode_protected_part(
    header: ReplyHeader,
    body_type: int,
    body: bytes,
    *,
    sender: bytes,
    algorithm: bytes | None,
    sender_kid: bytes | None,
) -> bytes:
    """The contents (header and body, without the SEQUENCE around them) of an answer's ProtectedPart.

    `body`: DER of the alternative's value. `sender`: DER of a GeneralName. `algorithm`: DER of
    protectionAlg, None for an unprotected message.
    """
    parts = [
        der.encode_integer(header.pvno),
        sender,
        header.recipient,
        der.explicit(0, der.encode_generalized_time(header.message_time)),
    ]
    if algorithm is not None:
        parts.append(der.explicit(1, algorithm))
    for number, octets in (
        (2, sender_kid),
        (4, header.transaction_id),
        (5, header.sender_nonce),
        (6, header.recip_nonce),
    ):
        if octets is not None:
            parts.append(der.explicit_octets(number, octets))
    info = b""
    if header.implicit_confirm:
        info = _IMPLICIT_CONFIRM_INFO
    elif header.confirm_wait is not None:
        info = der.seq(_CONFIRM_WAIT_TYPE, der.encode_generalized_time(header.confirm_wait))
    if header.rev_passphrase:
        info += _REV_PASSPHRASE_INFO
    if info:
        parts.append(der.explicit(8, der.seq(info)))
    return der.tlv(der.SEQUENCE, b"".join(parts)) + der.explicit(body_type, body)


def encode_message(protected_part: bytes, protection: bytes | None, extra_certs: tuple[bytes, ...]) -> bytes:
    """A PKIMessage of encode_protected_part's result, the octets of its protection (or None), and certificates."""
    message = protected_part
    if protection is not None:
        message += der.explicit(0, der.encode_bits(protection))
    if extra_certs:
        message += der.explicit(1, der.seq(*extra_certs))
    return der.tlv(der.SEQUENCE, message)
