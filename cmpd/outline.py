"""A certificate's fields by position (RFC 5280 section 4.1), for decisions that compare what is asked with what is
held.

certificates.py reads a certificate whole and judges it; this only cuts it up, for a few microseconds.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from cmpd.asn1 import der
from cmpd.requests import Extension, read_extensions, read_time


@dataclass(frozen=True, slots=True)
class Outline:
    """What decisions need of a certificate. Names and the key are DER, `serial` contents octets, times Unix seconds."""

    serial: bytes
    issuer: bytes
    not_before: int
    not_after: int
    subject: bytes
    public_key: bytes
    extensions: tuple[Extension, ...] = field(repr=False)

    def value(self, oid: bytes) -> bytes | None:
        """ExtnValue's contents of the extension with this OID (contents octets), None if it is absent."""
        return next((extension.value for extension in self.extensions if extension.oid == oid), None)


@lru_cache(maxsize=4096)
def outline(certificate: bytes) -> Outline:
    """Cut up a certificate (DER). Raises DerError."""
    data = certificate
    start, stop = der.expect(data, 0, len(data), der.SEQUENCE, "Certificate")
    at, end = der.expect(data, start, stop, der.SEQUENCE, "tbsCertificate")
    values = der.children(data, at, end, 10)
    if values and values[0][0] == 0xA0:  # version
        del values[0]
    if [tag for tag, *_ in values[:2]] != [der.INTEGER, der.SEQUENCE] or len(values) < 6:
        raise der.DerError("tbsCertificate: fields are missing")
    serial, _, issuer, validity, subject, key, *others = values
    times = [read_time(data, pos, after, "validity") for _, pos, _, after in der.children(data, *validity[2:], 2)]
    if len(times) != 2:
        raise der.DerError("validity: want two times")
    extensions: tuple[Extension, ...] = ()
    for tag, _, inner, after in others:
        if tag == 0xA3:
            extensions = read_extensions(data, *der.expect(data, inner, after, der.SEQUENCE, "extensions"))
    return Outline(
        serial=data[serial[2] : serial[3]],
        issuer=data[issuer[1] : issuer[3]],
        not_before=times[0],
        not_after=times[1],
        subject=data[subject[1] : subject[3]],
        public_key=data[key[1] : key[3]],
        extensions=extensions,
    )
