"""Whom an EnvelopedData is for: issuerAndSerialNumber or subjectKeyIdentifier (RFC 5652 sections 6.2.1 and 6.2.2)."""

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.names import read_name
from cmpd.frozen import frozen


@frozen
class RecipientId:
    """RecipientIdentifier: `key_identifier`, or else `issuer` (DER of a Name) with `serial` (contents octets)."""

    key_identifier: bytes | None = None
    issuer: bytes = b""
    serial: bytes = b""

    def encode(self, *, agreement: bool = False) -> bytes:
        """DER of the RecipientIdentifier, or with `agreement` of the KeyAgreeRecipientIdentifier."""
        if self.key_identifier is None:
            return der.seq(self.issuer, der.tlv(der.INTEGER, self.serial))
        if agreement:
            return der.tlv(0xA0, der.encode_octets(self.key_identifier))
        return der.tlv(0x80, self.key_identifier)


def read_recipient_id(data: bytes, pos: int, end: int) -> tuple[RecipientId, int]:
    """The RecipientIdentifier at `pos`, and the position after it. DerError."""
    tag, start, after = der.header(data, pos, end)
    if tag == 0x80:
        return RecipientId(key_identifier=data[start:after]), after
    if tag == der.SEQUENCE:
        return _read_issuer_and_serial(data, start, after), after
    raise DerError(f"rid: want issuerAndSerialNumber or subjectKeyIdentifier, have tag {tag:02X}")


def read_agreement_recipient_id(data: bytes, pos: int, end: int) -> tuple[RecipientId, int]:
    """The KeyAgreeRecipientIdentifier at `pos`, and the position after it. DerError."""
    tag, start, after = der.header(data, pos, end)
    if tag == der.SEQUENCE:
        return _read_issuer_and_serial(data, start, after), after
    if tag != 0xA0:
        raise DerError(f"rid: want issuerAndSerialNumber or rKeyId, have tag {tag:02X}")
    first, last = der.expect(data, start, after, der.OCTET_STRING, "subjectKeyIdentifier")
    return RecipientId(key_identifier=data[first:last]), after  # date and other are of no use to us


def _read_issuer_and_serial(data: bytes, start: int, stop: int) -> RecipientId:
    last = der.expect(data, start, stop, der.SEQUENCE, "issuer")[1]
    read_name(data[start:last])
    number, after = der.expect(data, last, stop, der.INTEGER, "serialNumber")
    if after != stop:
        raise DerError("IssuerAndSerialNumber: octets after serialNumber")
    return RecipientId(issuer=data[start:last], serial=data[number:after])
