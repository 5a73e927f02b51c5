"""RevReqContent (RFC 9810 section 5.3.9), read by position as requests.py reads other bodies.

Each RevDetails is judged by itself, so what cannot be read in one of them is its own fault and no other's: it comes
back with `fault`, and with whatever was read before. Only what is around them is the fault of the whole body.
"""

from collections.abc import Callable
from dataclasses import field
from typing import Any, Final

from cmpd.asn1 import der, oids
from cmpd.asn1.der import DerError
from cmpd.asn1.names import NULL_DN, read_name
from cmpd.errors import BadDataFormat, BadRequest, CmpError
from cmpd.frozen import frozen
from cmpd.records import CRL_REASONS
from cmpd.requests import Extension, read_extensions, read_time
from cmpd.strictness import RULES

OID_REASON_CODE: Final = oids.contents("2.5.29.21")
OID_INVALIDITY_DATE: Final = oids.contents("2.5.29.24")
OID_CERTIFICATE_ISSUER: Final = oids.contents("2.5.29.29")

_REASONS: Final = {number: name for name, number in CRL_REASONS.items()}
_MAX_NAMES: Final = 16
_MAX_NAME: Final = 1024  # octets of a Name: comparing long ones costs the loop's time
MAX_SERIAL: Final = 20  # octets (RFC 5280 section 4.1.2.2)


@frozen
class RevTemplate:
    """What certDetails says of the certificate beside its issuer and serial number; None = absent, or there but empty.

    `subject` and `public_key` are DER, `signing_alg` DER of an AlgorithmIdentifier, UIDs the contents of the BIT
    STRING, times Unix seconds.
    """

    version: int | None = None
    signing_alg: bytes | None = None
    not_before: int | None = None
    not_after: int | None = None
    subject: bytes | None = None
    public_key: bytes | None = None
    issuer_uid: bytes | None = None
    subject_uid: bytes | None = None
    extensions: tuple[Extension, ...] = ()


@frozen
class RevDetails:
    """One RevDetails. `issuer` is DER of a Name, `serial` the contents octets of any INTEGER; None = missing or empty.

    `reason`: as spelt in RFC 5280, "unspecified" if there is none. `certificate_issuer`: DER of the GeneralNames in the
    extension of that name. `unused`: non-critical extensions that mean nothing here, dotted. `fault`: why it cannot be
    granted whoever asks; the fields that come after what it is about are then as if absent.
    """

    issuer: bytes | None = None
    serial: bytes | None = None
    template: RevTemplate = RevTemplate()
    reason: str = "unspecified"
    invalidity_date: int | None = None
    certificate_issuer: bytes | None = None
    unused: tuple[str, ...] = ()
    fault: CmpError | None = field(default=None, compare=False)


def read_rev_req_content(body: bytes, limit: int, *, strict: bool = False) -> tuple[RevDetails, ...]:
    """The RevDetails of an rr, 1 to `limit`, or one if `strict`.

    BadDataFormat: it cannot be read, or is empty; BadRequest: too many.
    """
    try:
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "want SEQUENCE OF RevDetails")
        items = der.children(body, start, stop, der.MAX_VALUES)
        if stop != len(body) or not items:
            raise DerError("want at least one RevDetails, and nothing after them")
    except DerError as fault:
        raise BadDataFormat(f"RevReqContent: {fault}") from None
    RULES["an rr has one RevDetails"].hold(
        strict, len(items) == 1, f"RevReqContent: want one RevDetails, have {len(items)}"
    )
    if len(items) > limit:
        raise BadRequest(f"RevReqContent: want at most {limit} RevDetails, have {len(items)}")
    return tuple(_read_rev_details(body, pos, after, strict) for _, pos, _, after in items)


def _read_rev_details(data: bytes, pos: int, end: int, strict: bool) -> RevDetails:
    fields: dict[str, Any] = {}
    try:
        start, stop = der.expect(data, pos, end, der.SEQUENCE, "RevDetails")
        inner, at = der.expect(data, start, stop, der.SEQUENCE, "certDetails")
        _read_template(data, inner, at, fields)
        if at < stop:
            inner, at = der.expect(data, at, stop, der.SEQUENCE, "crlEntryDetails")
            if at != stop:
                raise DerError("values after crlEntryDetails")
            RULES["extensions are at least one, if they are there"].hold(
                strict, inner < at, "crlEntryDetails: want at least one extension, or no list; have none in it"
            )
            _read_entry_details(read_extensions(data, inner, at), fields)
    except DerError as fault:
        return RevDetails(**fields, fault=BadDataFormat(f"RevDetails: {fault}"))
    except CmpError as fault:
        return RevDetails(**fields, fault=fault)
    return RevDetails(**fields)


# --- certDetails -----------------------------------------------------------------------------------------------------


def _read_template(data: bytes, pos: int, end: int, fields: dict[str, Any]) -> None:
    said: dict[str, Any] = {}
    before = -1
    for tag, _, start, stop in der.children(data, pos, end, 10):
        number = tag & 0x1F
        if number <= before or tag not in _TEMPLATE:
            raise DerError(f"certDetails: tag {tag:02X} is unknown or out of order")
        before = number
        said |= _TEMPLATE[tag](data, start, stop)
        for name in ("issuer", "serial"):  # kept even if a later field cannot be read
            if said.get(name) is not None:
                fields[name] = said.pop(name)
    said.pop("issuer", None)
    fields["template"] = RevTemplate(**said)


def _read_version(data: bytes, start: int, stop: int) -> dict[str, Any]:
    return {"version": der.integer(data, start, stop, "version")}


def _read_serial(data: bytes, start: int, stop: int) -> dict[str, Any]:
    der.integer(data, start, stop, "serialNumber", octets=stop - start)  # whether it is one of ours is asked later
    return {"serial": data[start:stop]}


def _read_signing_alg(data: bytes, start: int, stop: int) -> dict[str, Any]:
    """AlgorithmIdentifier, tagged implicitly."""
    return {"signing_alg": der.tlv(der.SEQUENCE, data[start:stop]) if start < stop else None}


def _name_reader(noun: str) -> Callable[[bytes, int, int], dict[str, Any]]:
    """Name is a CHOICE, so its tag is explicit."""

    def read(data: bytes, start: int, stop: int) -> dict[str, Any]:
        name = data[start:stop]
        try:
            if len(name) > _MAX_NAME:
                raise DerError(f"want at most {_MAX_NAME} octets, have {len(name)}")
            read_name(name)
        except DerError as fault:
            raise DerError(f"{noun}: {fault}") from None
        return {noun: None if name == NULL_DN else name}

    return read


def _read_validity(data: bytes, start: int, stop: int) -> dict[str, Any]:
    """OptionalValidity: Time is a CHOICE, so its tags are explicit."""
    values = der.children(data, start, stop, 2)
    if [tag for tag, *_ in values] not in ([], [0xA0], [0xA1], [0xA0, 0xA1]):
        raise DerError("validity: want notBefore [0] or notAfter [1] or both")
    names = {0xA0: "not_before", 0xA1: "not_after"}
    return {names[tag]: read_time(data, inner, after, "validity") for tag, _, inner, after in values}


def _read_key(data: bytes, start: int, stop: int) -> dict[str, Any]:
    """SubjectPublicKeyInfo, tagged implicitly; with an empty key it says nothing of a certificate."""
    if start == stop:
        return {}
    at = der.expect(data, start, stop, der.SEQUENCE, "publicKey.algorithm")[1]
    inner, after = der.expect(data, at, stop, der.BIT_STRING, "publicKey.subjectPublicKey")
    if after != stop:
        raise DerError("publicKey: values after subjectPublicKey")
    return {"public_key": der.tlv(der.SEQUENCE, data[start:stop]) if after - inner > 1 else None}


def _uid_reader(noun: str) -> Callable[[bytes, int, int], dict[str, Any]]:
    """UniqueIdentifier is a BIT STRING, tagged implicitly."""
    return lambda data, start, stop: {noun: data[start:stop] if stop - start > 1 else None}


def _read_template_extensions(data: bytes, start: int, stop: int) -> dict[str, Any]:
    return {"extensions": read_extensions(data, start, stop)}


_TEMPLATE: Final[dict[int, Callable[[bytes, int, int], dict[str, Any]]]] = {
    0x80: _read_version,
    0x81: _read_serial,
    0xA2: _read_signing_alg,
    0xA3: _name_reader("issuer"),
    0xA4: _read_validity,
    0xA5: _name_reader("subject"),
    0xA6: _read_key,
    0x87: _uid_reader("issuer_uid"),
    0x88: _uid_reader("subject_uid"),
    0xA9: _read_template_extensions,
}
"""The fields of CertTemplate (RFC 4211 section 5) by their tags."""


# --- crlEntryDetails -------------------------------------------------------------------------------------------------


def _read_entry_details(extensions: tuple[Extension, ...], fields: dict[str, Any]) -> None:
    """What the entry of a CRL shall say (RFC 5280 section 5.3)."""
    unused = []
    for extension in extensions:
        if extension.oid in _ENTRY:
            fields |= _ENTRY[extension.oid](extension.value)
            continue
        der.check_oid(extension.oid, 0, len(extension.oid), "extnID")
        dotted = der.dotted(extension.oid)
        if extension.critical:
            raise BadRequest(f"crlEntryDetails: extension {dotted} is critical and not supported")
        unused.append(dotted)
    fields["unused"] = tuple(unused)


def _read_reason(value: bytes) -> dict[str, Any]:
    start, stop = der.expect(value, 0, len(value), der.ENUMERATED, "reasonCode")
    number = der.integer(value, start, stop, "reasonCode")
    if stop != len(value) or number not in _REASONS:
        raise DerError(f"reasonCode: want a CRLReason (0 to 10 without 7), have {number}")
    return {"reason": _REASONS[number]}


def _read_invalidity_date(value: bytes) -> dict[str, Any]:
    start, stop = der.expect(value, 0, len(value), der.GENERALIZED_TIME, "invalidityDate")
    if stop != len(value):
        raise DerError("invalidityDate: want one GeneralizedTime")
    return {"invalidity_date": der.generalized_time(value, start, stop, "invalidityDate")}


def _read_certificate_issuer(value: bytes) -> dict[str, Any]:
    start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "certificateIssuer")
    if stop != len(value) or not der.children(value, start, stop, _MAX_NAMES):
        raise DerError("certificateIssuer: want GeneralNames")
    return {"certificate_issuer": value}


_ENTRY: Final[dict[bytes, Callable[[bytes], dict[str, Any]]]] = {
    OID_REASON_CODE: _read_reason,
    OID_INVALIDITY_DATE: _read_invalidity_date,
    OID_CERTIFICATE_ISSUER: _read_certificate_issuer,
}
