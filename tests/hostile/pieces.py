"""Requests for certificates in pieces: a CertReqMsg and a PKCS #10 that are signed whatever is put into them."""

from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.keys import public_key_info
from cmpd.client.messages import extension

ECDSA = der.seq(der.encode_oid("1.2.840.10045.4.3.2"))
SHA256 = der.seq(der.encode_oid("2.16.840.1.101.3.4.2.1"))
SHA1 = der.seq(der.encode_oid("1.3.14.3.2.26"))
SUBJECT = encode_name("/CN=device")
SAN = extension("2.5.29.17", bytes.fromhex("300382016a"))
OLD_CERT_ID = der.encode_oid("1.3.6.1.5.5.7.5.1.5")


@dataclass(frozen=True)
class Ask:
    """A CertReqMsg in pieces; `message` signs whatever is in them. A piece is octets, b"" leaves it out."""

    key: ec.EllipticCurvePrivateKey
    cert_req_id: bytes = b"\x02\x01\x00"
    fields: tuple[bytes, ...] | None = None  # of the CertTemplate
    template: bytes | None = None
    controls: bytes = b""
    popo: bytes | None = None
    reg_info: bytes = b""
    request_end: bytes = b""

    def field(self, number: int, octets: bytes) -> "Ask":
        """Another value at a field of the template: the tags are in order again afterwards."""
        kept = [value for value in self.parts if value[0] & 0x1F != number]
        return replace(self, fields=tuple(sorted([*kept, octets], key=lambda value: value[:1] and value[0] & 0x1F)))

    @property
    def parts(self) -> tuple[bytes, ...]:
        if self.fields is not None:
            return self.fields
        return der.explicit(5, SUBJECT), b"\xa6" + public_key_info(self.key)[1:]

    @property
    def request(self) -> bytes:
        template = self.template if self.template is not None else der.seq(*self.parts)
        return der.seq(self.cert_req_id, template, self.controls, self.request_end)

    def signed(self, octets: bytes) -> bytes:
        return self.key.sign(octets, ec.ECDSA(hashes.SHA256()))

    @property
    def message(self) -> bytes:
        popo = self.popo
        if popo is None:
            popo = der.tlv(0xA1, ECDSA + der.encode_bits(self.signed(self.request)))
        return der.seq(self.request, popo, self.reg_info)


def control(oid: str, *values: bytes) -> bytes:
    return der.seq(der.seq(der.encode_oid(oid), *values))


def p10(
    key: ec.EllipticCurvePrivateKey, *, version=b"\x02\x01\0", subject=SUBJECT, spki=None, attributes=b"\xa0\0"
) -> bytes:
    info = der.seq(version, subject, public_key_info(key) if spki is None else spki, attributes)
    return der.seq(info, ECDSA, der.encode_bits(key.sign(info, ec.ECDSA(hashes.SHA256()))))
