"""The bodies that arrive all day, read by position: CertReqMessages, PKCS #10 and CertConfirmContent.

message.decode has checked every octet to be DER; here the values get their meaning. What policy needs is decoded
(names, key, extensions as slices of the received octets). RFC 4211 has IMPLICIT tags, so a tagged Name or Time (a
CHOICE) is explicit.
"""

from collections.abc import Iterator
from typing import Any, Final, NoReturn

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.names import DIRECTORY_NAME
from cmpd.asn1.oids import contents
from cmpd.errors import BadCertTemplate, BadDataFormat, BadRequest
from cmpd.frozen import frozen
from cmpd.popo import PrivKeyPop, RaVerified, SignaturePop, read_key, read_pop

P10CR_ID: Final = -1
"""certReqId that stands for the request of a p10cr (RFC 9810 section 5.3.4)."""

ID_REG_CTRL_REG_TOKEN: Final = contents("1.3.6.1.5.5.7.5.1.1")
ID_REG_CTRL_AUTHENTICATOR: Final = contents("1.3.6.1.5.5.7.5.1.2")
ID_REG_CTRL_OLD_CERT_ID: Final = contents("1.3.6.1.5.5.7.5.1.5")
ID_REG_CTRL_PKI_ARCHIVE_OPTIONS: Final = contents("1.3.6.1.5.5.7.5.1.4")
ID_REG_CTRL_ALT_CERT_TEMPLATE: Final = contents("1.3.6.1.5.5.7.5.1.7")
ID_REG_INFO_UTF8_PAIRS: Final = contents("1.3.6.1.5.5.7.5.2.1")
ID_REG_INFO_CERT_REQ: Final = contents("1.3.6.1.5.5.7.5.2.2")

_ID_EXTENSION_REQUEST: Final = contents("1.2.840.113549.1.9.14")
_MAX_EXTENSIONS: Final = 64
_MAX_CONTROLS: Final = 32
_MAX_CERT_REQ_ID: Final = 8  # octets: what the database keeps


@frozen
class Extension:
    """One X.509 extension: `oid` is the contents octets, `value` what is inside extnValue's OCTET STRING."""

    oid: bytes
    critical: bool
    value: bytes


@frozen
class Template:
    """CertTemplate (RFC 4211 section 5), or what a PKCS #10 says of the same. Absent fields are None.

    `issuer` and `subject` are DER of a Name, `public_key` DER of a SubjectPublicKeyInfo, times Unix seconds.
    `forbidden` names the fields present that a certification request must omit (serialNumber, signingAlg ...); `serial`
    are the contents octets of serialNumber. `empty_extensions`: a list of them is there, with nothing in it.
    """

    version: int | None = None
    issuer: bytes | None = None
    not_before: int | None = None
    not_after: int | None = None
    subject: bytes | None = None
    public_key: bytes | None = None
    extensions: tuple[Extension, ...] = ()
    forbidden: tuple[str, ...] = ()
    serial: bytes | None = None
    empty_extensions: bool = False


@frozen
class CertRequest:
    """One certificate that is asked for, by a CertReqMsg or a PKCS #10.

    `modified`: the template that an RA has put into regInfo in place of the one that the requester signed (RFC 4211
    section 7.2).
    """

    cert_req_id: int
    template: Template
    pop: SignaturePop | PrivKeyPop | RaVerified | None
    controls: dict[bytes, bytes]  # contents octets of the type -> DER of the value
    modified: Template | None = None

    @classmethod
    def unreadable(cls, cert_req_id: int) -> "CertRequest":
        """Stands for a request that could not be read, so that its rejection has a certReqId."""
        return cls(cert_req_id, Template(), None, {})


@frozen
class CertStatus:
    """One CertStatus of a certConf (RFC 9810 section 5.3.18). `hash_alg`: DER of the AlgorithmIdentifier or None."""

    cert_hash: bytes
    cert_req_id: int
    accepted: bool
    text: str
    hash_alg: bytes | None
    status: int | None = None  # of statusInfo, None = there is none
    has_fail_info: bool = False


def _refuse(noun: str, fault: DerError) -> NoReturn:
    raise BadDataFormat(f"{noun}: {fault}") from None


# --- CertReqMessages (ir, cr, kur) ---------------------------------------------------------------------------------


def read_cert_req_messages(body: bytes, limit: int) -> tuple[CertRequest, ...]:
    """The requests of an ir, cr or kur, 1 to `limit`. BadDataFormat: they cannot be read; BadRequest: too many."""
    try:
        items = _cert_req_messages(body)
        if not items:
            raise DerError("want at least one CertReqMsg")
        if len(items) > limit:
            raise BadRequest(f"CertReqMessages: want at most {limit} CertReqMsg, have {len(items)}")
        requests = tuple(_read_cert_req_msg(body, pos, after) for pos, after in items)
    except DerError as fault:
        _refuse("CertReqMessages", fault)
    ids = [request.cert_req_id for request in requests]
    if len(set(ids)) != len(ids):
        raise BadDataFormat("CertReqMessages: want each certReqId once, have one twice")
    return requests


def count_cert_req_messages(body: bytes) -> int:
    """How many CertReqMsg there are in an ir, cr or kur; 0 if that cannot be read."""
    try:
        return len(_cert_req_messages(body))
    except DerError:
        return 0


def read_cert_req_ids(body: bytes) -> tuple[int | None, ...]:
    """The certReqId of each CertReqMsg as far as it can be read: for who answers what cannot be read whole."""
    try:
        return tuple(_peek_cert_req_id(body, pos, after) for pos, after in _cert_req_messages(body))
    except DerError:
        return ()


def _cert_req_messages(body: bytes) -> list[tuple[int, int]]:
    """Where each CertReqMsg begins and ends."""
    start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "CertReqMessages")
    return [(pos, after) for _, pos, _, after in der.children(body, start, stop)]


def _peek_cert_req_id(data: bytes, pos: int, end: int) -> int | None:
    try:
        start, stop = der.expect(data, pos, end, der.SEQUENCE, "CertReqMsg")
        start, stop = der.expect(data, start, stop, der.SEQUENCE, "certReq")
        return der.integer(
            data, *der.expect(data, start, stop, der.INTEGER, "certReqId"), "certReqId", octets=_MAX_CERT_REQ_ID
        )
    except DerError:
        return None


def _read_cert_req_msg(data: bytes, pos: int, end: int) -> CertRequest:
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "CertReqMsg")
    cert_req_id, template, controls, after = _read_cert_request(data, start, stop)
    pop, modified = None, None
    if after < stop and data[after] != der.SEQUENCE:
        pop, after = read_pop(data, after, stop, data[start:after])
    if after < stop:
        first, after = der.expect(data, after, stop, der.SEQUENCE, "regInfo")
        modified = _read_reg_info(data, first, after)
    if after != stop:
        raise DerError("CertReqMsg: values after regInfo")
    return CertRequest(cert_req_id, template, pop, controls, modified)


def _read_cert_request(data: bytes, pos: int, end: int) -> tuple[int, Template, dict[bytes, bytes], int]:
    """(certReqId, certTemplate, controls, position after it) of the CertRequest at `pos`."""
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "certReq")
    id_start, id_stop = der.expect(data, start, stop, der.INTEGER, "certReqId")
    cert_req_id = der.integer(data, id_start, id_stop, "certReqId", octets=_MAX_CERT_REQ_ID)
    template_start, template_stop = der.expect(data, id_stop, stop, der.SEQUENCE, "certTemplate")
    template = _read_template(data, template_start, template_stop)
    controls = _read_controls(data, template_stop, stop) if template_stop < stop else {}
    return cert_req_id, template, controls, stop


_SERIAL_NUMBER: Final = 0x81
_FORBIDDEN_FIELDS: Final = {
    _SERIAL_NUMBER: "serialNumber",
    0xA2: "signingAlg",
    0x87: "issuerUID",
    0x88: "subjectUID",
}


def _read_template(data: bytes, pos: int, end: int) -> Template:
    fields: dict[str, Any] = {}
    forbidden = []
    before = -1
    for tag, at, start, stop in der.children(data, pos, end, 10):
        number = tag & 0x1F
        if number <= before or number > 9 or tag & 0xC0 != 0x80:
            raise DerError(f"certTemplate: tag {tag:02X} is unknown or out of order")
        before = number
        if tag in _FORBIDDEN_FIELDS:
            forbidden.append(_FORBIDDEN_FIELDS[tag])
            if tag == _SERIAL_NUMBER:
                der.integer(data, start, stop, "serialNumber", octets=stop - start)
                fields["serial"] = data[start:stop]
        elif tag == 0x80:
            fields["version"] = der.integer(data, start, stop, "version")
        elif tag in (0xA3, 0xA5):
            name = "issuer" if tag == 0xA3 else "subject"
            if der.expect(data, start, stop, der.SEQUENCE, name)[1] != stop:
                raise DerError(f"{name}: more than one Name")
            fields[name] = data[start:stop]
        elif tag == 0xA4:
            fields |= _read_validity(data, start, stop)
        elif tag == 0xA6:
            fields["public_key"] = read_key(data, start, stop)
        elif tag == 0xA9:
            fields["extensions"] = read_extensions(data, start, stop)
            fields["empty_extensions"] = start == stop
        else:
            raise DerError(f"certTemplate: tag {tag:02X} at offset {at} is not of a known form")
    return Template(**fields, forbidden=tuple(forbidden))


def _read_validity(data: bytes, pos: int, end: int) -> dict[str, int]:
    values = der.children(data, pos, end, 2)
    if [tag for tag, *_ in values] not in ([0xA0], [0xA1], [0xA0, 0xA1]):
        raise DerError("validity: want notBefore [0] or notAfter [1] or both")
    names = {0xA0: "not_before", 0xA1: "not_after"}
    return {names[tag]: read_time(data, start, stop, "validity") for tag, _, start, stop in values}


def read_time(data: bytes, pos: int, end: int, noun: str) -> int:
    """A Time (UTCTime or GeneralizedTime) that fills [pos, end), as Unix seconds. Raises DerError."""
    tag, start, stop = der.header(data, pos, end)
    if stop != end or tag not in (der.UTC_TIME, der.GENERALIZED_TIME):
        raise DerError(f"{noun}: want one Time")
    return (der.utc_time if tag == der.UTC_TIME else der.generalized_time)(data, start, stop, noun)


def read_extensions(data: bytes, pos: int, end: int) -> tuple[Extension, ...]:
    """The Extension values that fill [pos, end). Raises DerError."""
    found = []
    for tag, _, start, stop in der.children(data, pos, end, _MAX_EXTENSIONS):
        if tag != der.SEQUENCE:
            raise DerError("extensions: want Extension")
        oid_start, at = der.expect(data, start, stop, der.OID, "extnID")
        oid = data[oid_start:at]
        critical = False
        if at < stop and data[at] == der.BOOLEAN:
            _, inner, at = der.header(data, at, stop)
            critical = der.boolean(data, inner, at, "critical")
        value_start, value_stop = der.expect(data, at, stop, der.OCTET_STRING, "extnValue")
        if value_stop != stop:
            raise DerError("extensions: values after extnValue")
        found.append(Extension(oid, critical, data[value_start:value_stop]))
    if len({extension.oid for extension in found}) != len(found):
        raise DerError("extensions: the same extnID twice")
    return tuple(found)


def _read_controls(data: bytes, pos: int, end: int) -> dict[bytes, bytes]:
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "controls")
    if stop != end:
        raise DerError("certReq: values after controls")
    found: dict[bytes, bytes] = {}
    for oid, at, after in _attributes(data, start, stop, "controls"):
        if oid in found:
            raise DerError("controls: the same type twice")
        found[oid] = data[at:after]
    for oid in (ID_REG_CTRL_REG_TOKEN, ID_REG_CTRL_AUTHENTICATOR):
        if oid in found and found[oid][0] != der.UTF8_STRING:
            raise DerError("controls: want a UTF8String as regToken and authenticator")
    if ID_REG_CTRL_OLD_CERT_ID in found:
        read_cert_id(found[ID_REG_CTRL_OLD_CERT_ID])
    return found


def _attributes(data: bytes, start: int, stop: int, noun: str) -> Iterator[tuple[bytes, int, int]]:
    """(contents octets of type, position of value, position after it) of each AttributeTypeAndValue, at least one."""
    items = der.children(data, start, stop, _MAX_CONTROLS)
    if not items:
        raise DerError(f"{noun}: want at least one")
    for tag, _, inner, after in items:
        if tag != der.SEQUENCE:
            raise DerError(f"{noun}: want AttributeTypeAndValue")
        oid_start, oid_stop = der.expect(data, inner, after, der.OID, noun)
        if der.header(data, oid_stop, after)[2] != after:
            raise DerError(f"{noun}: want one value")
        yield data[oid_start:oid_stop], oid_stop, after


def _read_reg_info(data: bytes, start: int, stop: int) -> Template | None:
    """The template of its certReq, None without one; all else in it is of no use to us (RFC 4211 section 7)."""
    modified = None
    for oid, at, after in _attributes(data, start, stop, "regInfo"):
        if oid == ID_REG_INFO_UTF8_PAIRS:
            der.expect(data, at, after, der.UTF8_STRING, "regInfo.utf8Pairs")
        elif oid == ID_REG_INFO_CERT_REQ:
            if modified is not None:
                raise DerError("regInfo: certReq twice")
            modified = _read_cert_request(data, at, after)[1]
    return modified


def read_cert_id(value: bytes) -> tuple[bytes, bytes]:
    """(issuer as DER of a Name, serialNumber's contents octets) of a CertId (RFC 4211 section 6.5).

    Raises BadDataFormat; an issuer that is no directoryName gives empty octets, which no issuer of ours equals.
    """
    try:
        start, stop = der.expect(value, 0, len(value), der.SEQUENCE, "CertId")
        tag, inner, at = der.header(value, start, stop)
        serial_start, serial_stop = der.expect(value, at, stop, der.INTEGER, "serialNumber")
        if stop != len(value) or serial_stop != stop:
            raise DerError("values after serialNumber")
        return value[inner:at] if tag == DIRECTORY_NAME else b"", value[serial_start:serial_stop]
    except DerError as fault:
        _refuse("oldCertId", fault)


# --- CertificationRequest (p10cr) ----------------------------------------------------------------------------------


def read_p10cr(body: bytes) -> CertRequest:
    """The request of a p10cr (RFC 2986). Raises BadDataFormat, or BadCertTemplate for another version."""
    try:
        return _read_p10cr(body)
    except DerError as fault:
        _refuse("CertificationRequest", fault)


def _read_p10cr(data: bytes) -> CertRequest:
    start, end = der.expect(data, 0, len(data), der.SEQUENCE, "CertificationRequest")
    info_start, info_stop = der.expect(data, start, end, der.SEQUENCE, "certificationRequestInfo")
    at, after = der.expect(data, info_start, info_stop, der.INTEGER, "version")
    version = der.integer(data, at, after, "version")
    if version != 0:
        raise BadCertTemplate(f"CertificationRequest: want version 0 (v1), have {version}")
    subject_stop = der.expect(data, after, info_stop, der.SEQUENCE, "subject")[1]
    subject = data[after:subject_stop]
    key_start, key_stop = der.expect(data, subject_stop, info_stop, der.SEQUENCE, "subjectPKInfo")
    tag, attributes_start, attributes_stop = der.header(data, key_stop, info_stop)
    if tag != 0xA0 or attributes_stop != info_stop:
        raise DerError("attributes: want [0] and nothing after it")
    _, algorithm_stop = der.expect(data, info_stop, end, der.SEQUENCE, "signatureAlgorithm")
    bits_start, bits_stop = der.expect(data, algorithm_stop, end, der.BIT_STRING, "signature")
    if bits_stop != end:
        raise DerError("values after signature")
    extensions = _read_attributes(data, attributes_start, attributes_stop)
    template = Template(
        subject=subject,
        public_key=read_key(data, key_start, key_stop),
        extensions=extensions or (),
        empty_extensions=extensions == (),
    )
    pop = SignaturePop(
        signed=data[start:info_stop],
        algorithm=data[info_stop:algorithm_stop],
        signature=der.octet_aligned(data, bits_start, bits_stop, "signature"),
    )
    return CertRequest(P10CR_ID, template, pop, {})


def _read_attributes(data: bytes, pos: int, end: int) -> tuple[Extension, ...] | None:
    """The extensions of the extensionRequest attribute, None without it; other attributes are of no use to us."""
    extensions: tuple[Extension, ...] | None = None
    seen = set()
    for tag, _, start, stop in der.children(data, pos, end, _MAX_CONTROLS):
        if tag != der.SEQUENCE:
            raise DerError("attributes: want Attribute")
        oid_start, oid_stop = der.expect(data, start, stop, der.OID, "attribute type")
        set_start, set_stop = der.expect(data, oid_stop, stop, der.SET, "attribute values")
        oid = data[oid_start:oid_stop]
        if set_stop != stop or set_start == set_stop or oid in seen:
            raise DerError("attributes: the same type twice, no value in its SET, or values after it")
        seen.add(oid)
        if oid == _ID_EXTENSION_REQUEST:
            inner, after = der.expect(data, set_start, set_stop, der.SEQUENCE, "extensionRequest")
            if after != set_stop:
                raise DerError("extensionRequest: want one value")
            extensions = read_extensions(data, inner, after)
    return extensions


# --- CertConfirmContent (certConf) ---------------------------------------------------------------------------------


def read_cert_conf(body: bytes, limit: int) -> tuple[CertStatus, ...]:
    """The CertStatus values of a certConf, at most `limit`, perhaps none. Raises BadDataFormat."""
    try:
        start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "CertConfirmContent")
        items = der.children(body, start, stop)
        if len(items) > limit:
            raise DerError(f"want at most {limit} CertStatus, have {len(items)}")
        return tuple(_read_cert_status(body, pos, after) for _, pos, _, after in items)
    except DerError as fault:
        _refuse("CertConfirmContent", fault)


def _read_cert_status(data: bytes, pos: int, end: int) -> CertStatus:
    start, stop = der.expect(data, pos, end, der.SEQUENCE, "CertStatus")
    hash_start, at = der.expect(data, start, stop, der.OCTET_STRING, "certHash")
    cert_hash = data[hash_start:at]
    id_start, at = der.expect(data, at, stop, der.INTEGER, "certReqId")
    cert_req_id = der.integer(data, id_start, at, "certReqId", octets=_MAX_CERT_REQ_ID)
    accepted, text, status, has_fail_info = True, "", None, False
    if at < stop and data[at] == der.SEQUENCE:
        _, inner, after = der.header(data, at, stop)
        status, text, has_fail_info = read_status_info(data, inner, after)
        if status not in (0, 1, 2):
            raise DerError(f"statusInfo.status: want accepted(0) or rejection(2), have {status}")
        accepted, at = status != 2, after
    hash_alg = None
    if at < stop and data[at] == 0xA0:
        _, inner, after = der.header(data, at, stop)
        if der.expect(data, inner, after, der.SEQUENCE, "hashAlg")[1] != after:
            raise DerError("hashAlg: more than one value")
        hash_alg, at = data[inner:after], after
    if at != stop:
        raise DerError("CertStatus: values after hashAlg")
    return CertStatus(cert_hash, cert_req_id, accepted, text, hash_alg, status, has_fail_info)


def read_status_info(data: bytes, pos: int, end: int) -> tuple[int, str, bool]:
    """(status, statusString's first text, whether there is failInfo) of the PKIStatusInfo with contents [pos, end).

    Raises DerError.
    """
    start, at = der.expect(data, pos, end, der.INTEGER, "status")
    status = der.integer(data, start, at, "status")
    text = ""
    if at < end and data[at] == der.SEQUENCE:
        _, inner, at = der.header(data, at, end)
        texts = der.children(data, inner, at)
        if not texts or any(tag != der.UTF8_STRING for tag, *_ in texts):
            raise DerError("statusString: want a SEQUENCE of at least one UTF8String")
        text = data[texts[0][2] : texts[0][3]].decode()
    has_fail_info = at < end
    if has_fail_info:
        at = der.expect(data, at, end, der.BIT_STRING, "failInfo")[1]
    if at != end:
        raise DerError("PKIStatusInfo: values after failInfo")
    return status, text, has_fail_info
