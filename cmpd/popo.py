"""ProofOfPossession of a CertReqMsg (RFC 4211 section 4), read by position; pop.py says what it is worth."""

from dataclasses import field
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.frozen import frozen


@frozen
class SignaturePop:
    """Proof-of-possession by signature (RFC 4211 section 4.1): what was signed, how, and the signature.

    `input_key`: the SubjectPublicKeyInfo inside poposkInput, None without it. `input_sender`: its sender (GeneralName);
    `key_mac`: or its publicKeyMAC, as (AlgorithmIdentifier, octets of the MAC).
    """

    signed: bytes = field(repr=False)
    algorithm: bytes
    signature: bytes = field(repr=False)
    input_key: bytes | None = None
    input_sender: bytes | None = None
    key_mac: tuple[bytes, bytes] | None = None


@frozen
class RaVerified:
    """raVerified: an RA says that it has seen the proof."""


@frozen
class PrivKeyPop:
    """keyEncipherment or keyAgreement with a POPOPrivKey (RFC 4211 sections 4.2 and 4.3).

    `method`: "encrCert" or "challengeResp", which subsequentMessage names, or the name of another alternative. Of
    agreeMAC `mac` is (AlgorithmIdentifier, octets of the MAC), of dhMAC (b"", octets), over `signed`.
    """

    choice: str
    method: str
    mac: tuple[bytes, bytes] | None = field(default=None, repr=False)
    signed: bytes = field(default=b"", repr=False)


def read_key(data: bytes, start: int, stop: int) -> bytes:
    """A SubjectPublicKeyInfo from its contents. Its key may be empty: then the CA is asked to generate one."""
    _, algorithm_stop = der.expect(data, start, stop, der.SEQUENCE, "publicKey.algorithm")
    _, key_stop = der.expect(data, algorithm_stop, stop, der.BIT_STRING, "publicKey.subjectPublicKey")
    if key_stop != stop:
        raise DerError("publicKey: values after subjectPublicKey")
    return der.tlv(der.SEQUENCE, data[start:stop])


def read_pop(data: bytes, pos: int, end: int, signed: bytes) -> tuple[SignaturePop | PrivKeyPop | RaVerified, int]:
    """The ProofOfPossession at `pos`, and the position after it. `signed`: DER of the CertRequest. DerError."""
    tag, start, stop = der.header(data, pos, end)
    if tag == 0x80:
        if start != stop:
            raise DerError("popo: raVerified is not NULL")
        return RaVerified(), stop
    if tag in (0xA2, 0xA3):
        choice = "keyEncipherment" if tag == 0xA2 else "keyAgreement"
        return PrivKeyPop(choice, *_read_method(data, start, stop), signed), stop
    if tag != 0xA1:
        raise DerError(f"popo: want a tag from 80 to A3, have {tag:02X}")
    input_key = input_sender = key_mac = None
    if start < stop and data[start] == 0xA0:
        _, inner, after = der.header(data, start, stop)
        signed = der.tlv(der.SEQUENCE, data[inner:after])  # signed with its universal tag
        input_key, input_sender, key_mac = _read_pop_input(data, inner, after)
        start = after
    _, algorithm_stop = der.expect(data, start, stop, der.SEQUENCE, "popo.algorithmIdentifier")
    inner, after = der.expect(data, algorithm_stop, stop, der.BIT_STRING, "popo.signature")
    if after != stop:
        raise DerError("popo: values after signature")
    signature = der.octet_aligned(data, inner, after, "popo.signature")
    return SignaturePop(signed, data[start:algorithm_stop], signature, input_key, input_sender, key_mac), stop


_METHODS: Final = {0x80: "thisMessage", 0x82: "dhMAC", 0xA3: "agreeMAC", 0xA4: "encryptedKey"}


def _read_method(data: bytes, pos: int, end: int) -> tuple[str, tuple[bytes, bytes] | None]:
    """The name of a POPOPrivKey's alternative, or of its subsequentMessage, and its MAC; others are of no use here."""
    tag, start, stop = der.header(data, pos, end)
    if stop != end:
        raise DerError("POPOPrivKey: want one alternative")
    if tag == 0x81:
        number = der.integer(data, start, stop, "subsequentMessage")
        if number not in (0, 1):
            raise DerError(f"subsequentMessage: want encrCert(0) or challengeResp(1), have {number}")
        return ("encrCert", "challengeResp")[number], None
    if tag not in _METHODS:
        raise DerError(f"POPOPrivKey: tag {tag:02X} is unknown")
    mac = None
    if tag == 0xA3:
        mac = _read_mac_value(data, start, stop, "agreeMAC")
    elif tag == 0x82:
        mac = b"", der.octet_aligned(data, start, stop, "dhMAC")
    return _METHODS[tag], mac


def _read_mac_value(data: bytes, pos: int, end: int, noun: str) -> tuple[bytes, bytes]:
    """The contents of a PKMACValue."""
    after = der.expect(data, pos, end, der.SEQUENCE, f"{noun}.algId")[1]
    start, stop = der.expect(data, after, end, der.BIT_STRING, f"{noun}.value")
    if stop != end:
        raise DerError(f"{noun}: values after value")
    return data[pos:after], der.octet_aligned(data, start, stop, noun)


def _read_pop_input(data: bytes, pos: int, end: int) -> tuple[bytes, bytes | None, tuple[bytes, bytes] | None]:
    """PoposkInput's (publicKey, sender or None, publicKeyMAC or None)."""
    tag, start, stop = der.header(data, pos, end)
    if tag not in (0xA0, der.SEQUENCE):
        raise DerError("poposkInput: want sender [0] or publicKeyMAC")
    key_start, key_stop = der.expect(data, stop, end, der.SEQUENCE, "poposkInput.publicKey")
    if key_stop != end:
        raise DerError("poposkInput: values after publicKey")
    key = read_key(data, key_start, key_stop)
    if tag == 0xA0:
        return key, data[start:stop], None
    return key, None, _read_mac_value(data, start, stop, "publicKeyMAC")
