"""A CA for tests: answers requests of the client correctly, or with exactly one thing forged."""

import datetime
import hashlib
import hmac
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1.type.univ import noValue
from pyasn1_alt_modules import rfc5280, rfc9810

from cmpd.asn1 import der
from cmpd.asn1.signing import SIGNING
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import KeyAndCertificate
from cmpd.message import BODY_NAMES, BODY_TYPES, Envelope, decode

SECRET = b"correct horse battery staple"
REFERENCE = "device-17"
CMC_CA = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.27")
CMC_RA = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")
TLS_SERVER = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")
IMPLICIT = der.seq(der.encode_oid("1.3.6.1.5.5.7.4.13"), der.NULL_TLV)
SHA256 = der.seq(der.encode_oid("2.16.840.1.101.3.4.2.1"))
SIGNATURES = {one.identifier for one in SIGNING.values()}
HMAC_SHA256 = der.seq(der.encode_oid("1.2.840.113549.2.9"), der.NULL_TLV)
ECDSA_SHA256 = der.seq(der.encode_oid("1.2.840.10045.4.3.2"))
ANSWER = {
    "ir": "ip",
    "cr": "cp",
    "p10cr": "cp",
    "kur": "kup",
    "rr": "rp",
    "genm": "genp",
    "certConf": "pkiconf",
    "error": "pkiconf",
}
ACCEPTED = der.seq(der.encode_integer(0))


@dataclass(frozen=True)
class Issued:
    key: ec.EllipticCurvePrivateKey
    certificate: Certificate

    @property
    def credential(self) -> KeyAndCertificate:
        return KeyAndCertificate(self.key, self.certificate)


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    ca: bool = False,
    path_length: int | None = None,
    usage: tuple[x509.ObjectIdentifier, ...] = (),
    public_key: object = None,
    days: tuple[int, int] = (-1, 30),
    key_usage: dict[str, bool] | None = None,
    san: str | None = None,
    ocsp: str | None = None,
) -> Issued:
    """A certificate of `issuer`, self-signed without one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signer_name = (issuer.key, issuer.certificate.parsed.subject) if issuer else (key, subject)
    now = datetime.datetime.now(datetime.UTC)
    public = public_key or key.public_key()
    bits = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    ) | {"decipher_only": False, "digital_signature": True, "key_cert_sign": ca, "crl_sign": ca}
    builder = (
        x509.CertificateBuilder(signer_name, subject, public, x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        .add_extension(x509.KeyUsage(**(bits | (key_usage or {}))), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
    if ocsp:
        place = x509.UniformResourceIdentifier(ocsp)
        access = [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, place)]
        builder = builder.add_extension(x509.AuthorityInformationAccess(access), critical=False)
    certificate = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    return Issued(key, Certificate.load(certificate))


@dataclass(frozen=True)
class Forge:
    """What is wrong with an answer; as it stands, nothing."""

    body: str | None = None  # answer with this body
    content: bytes | None = None  # and this value in it
    transaction_id: bytes | None = None
    recip_nonce: bytes | None = None
    secret: bytes = SECRET
    iterations: int = 500
    signer: Issued | None = None  # signs instead of the CA's CMP certificate
    sender: bytes | None = None
    sender_kid: bytes | None = None
    nonce_octets: int = 16
    protection: str | None = None  # "mac", "signature" or "none" instead of the kind of the request
    flip: bool = False  # one bit of the protection
    change: Callable[[bytes], bytes] = bytes  # of the protected part, after protection
    other_key: bool = False  # the certificate is for another key
    other_issuer: bool = False
    cert_req_id: int | None = None
    status: int = 0
    grant_implicit: bool = True
    grant_unasked: bool = False
    ca_pubs: tuple[bytes, ...] = ()
    extra: tuple[bytes, ...] = ()  # more of extraCerts
    rev_status: Mapping[int, bytes] = field(default_factory=dict)  # PKIStatusInfo by serial number, else accepted
    general: Mapping[str, bytes] = field(default_factory=dict)  # infoValue by infoType for a genm; else absent
    rev_certs: bool = True  # whether an rp says which certificates it is about


@dataclass
class Ca:
    """`respond` is one server. `received`: the names and envelopes of the requests in their order."""

    root: Issued
    sub: Issued
    signer: Issued
    forge: Forge = field(default_factory=Forge)
    forge_confirm: Forge = field(default_factory=Forge)
    received: list[tuple[str, Envelope]] = field(default_factory=list)

    @classmethod
    def make(cls) -> "Ca":
        root = issue("root", ca=True)
        sub = issue("sub", root, ca=True, path_length=0)
        return cls(root, sub, issue("cmp signer", sub, usage=(CMC_CA,)))

    def respond(self, octets: bytes) -> bytes:
        request = decode(octets)
        name = BODY_NAMES[request.body_type]
        self.received.append((name, request))
        forge = self.forge_confirm if name == "certConf" else self.forge
        body = forge.body or ANSWER[name]
        content = forge.content
        if content is None and body == "rp":
            content = self._rev_rep(request, forge)
        elif content is None and body == "genp":
            content = gen_rep({oid: forge.general.get(oid, b"") for oid in general(request)})
        elif content is None:
            content = der.NULL_TLV if body == "pkiconf" else self._cert_rep(request, name, forge)
        return self._message(request, body, content, forge)

    def _cert_rep(self, request: Envelope, name: str, forge: Forge) -> bytes:
        structure = request.structure["body"].chosen
        wanted = []
        if name == "p10cr":
            info = structure["certification_request_info"]
            wanted.append((-1, info["subject_pk_info"].dump()))
        else:
            for message in structure:
                template = message["cert_req"]["cert_template"]
                key = b"\x30" + template["public_key"].dump()[1:]
                wanted.append((message["cert_req"]["cert_req_id"].native, key))
        responses = b"".join(self._cert_response(number, key, forge) for number, key in wanted)
        ca_pubs = der.explicit(1, der.seq(*forge.ca_pubs)) if forge.ca_pubs else b""
        return der.seq(ca_pubs, der.seq(responses))

    def _cert_response(self, number: int, key: bytes, forge: Forge) -> bytes:
        public = None if forge.other_key else serialization.load_der_public_key(key)
        issuer = issue("another CA", ca=True) if forge.other_issuer else self.sub
        certificate = issue("device", issuer, public_key=public).certificate.der
        number = number if forge.cert_req_id is None else forge.cert_req_id
        if forge.status > 1:
            return der.seq(der.encode_integer(number), status_info(forge.status, "no", 19))
        pair = der.seq(der.explicit(0, certificate))
        return der.seq(der.encode_integer(number), der.seq(der.encode_integer(forge.status)), pair)

    def _rev_rep(self, request: Envelope, forge: Forge) -> bytes:
        asked = [cert_id for cert_id, _ in wishes(request)]
        statuses = [forge.rev_status.get(serial, ACCEPTED) for _, serial in asked]
        return rev_rep(statuses, asked if forge.rev_certs else ())

    def _message(self, request: Envelope, body: str, content: bytes, forge: Forge) -> bytes:
        header = request.header
        kind = forge.protection or ("signature" if header.protection_alg in SIGNATURES else "mac")
        signer = forge.signer or self.signer
        salt = os.urandom(16)
        parameter = der.seq(der.encode_octets(salt), SHA256, der.encode_integer(forge.iterations), HMAC_SHA256)
        algorithm = {
            "mac": der.seq(der.encode_oid("1.2.840.113533.7.66.13"), parameter),
            "signature": ECDSA_SHA256,
            "none": None,
        }[kind]
        asked = header.implicit_confirm or forge.grant_unasked
        wants_implicit = asked and forge.grant_implicit and body != "pkiconf"
        fields: list[tuple[int, bytes | None]] = [
            (1, algorithm),
            (2, None if forge.sender_kid is None else der.encode_octets(forge.sender_kid)),
            (4, der.encode_octets(forge.transaction_id or header.transaction_id or b"")),
            (5, der.encode_octets(os.urandom(forge.nonce_octets))),
            (6, der.encode_octets(forge.recip_nonce or header.sender_nonce or b"")),
            (8, der.seq(IMPLICIT) if wants_implicit else None),
        ]
        sender = forge.sender or der.explicit(4, signer.certificate.subject)
        part = der.seq(
            der.encode_integer(2),
            sender,
            header.sender,
            *(der.explicit(number, value) for number, value in fields if value is not None),
        ) + der.explicit(BODY_TYPES[body], content)
        protected = der.seq(part)
        if kind == "mac":
            key = forge.secret + salt
            for _ in range(forge.iterations):
                key = hashlib.sha256(key).digest()
            value = hmac.digest(key, protected, "sha256")
        else:
            value = signer.key.sign(protected, ec.ECDSA(hashes.SHA256()))
        if forge.flip:
            value = value[:-1] + bytes((value[-1] ^ 1,))
        tail = b"" if kind == "none" else der.explicit(0, der.encode_bits(value))
        extra = [self.sub.certificate.der, *forge.extra]
        if kind == "signature":
            extra.insert(0, signer.certificate.der)
        return der.seq(forge.change(part), tail, der.explicit(1, der.seq(*extra)))


def wishes(request: Envelope) -> list[tuple[tuple[bytes, int], dict[str, bytes]]]:
    """What an rr asks for, read by pyasn1: (issuer's Name in DER, serial number), value by OID of each extension."""
    content, rest = decode_der(request.body, asn1Spec=rfc9810.RevReqContent())
    assert rest == b""
    found = []
    for details in content:
        template = details["certDetails"]
        there = [name for name in template if template.getComponentByName(name, instantiate=False) is not noValue]
        assert there == ["serialNumber", "issuer"]
        cert_id = bytes(encode_der(template["issuer"]["rdnSequence"])), int(template["serialNumber"])
        found.append((cert_id, {str(one["extnID"]): bytes(one["extnValue"]) for one in details["crlEntryDetails"]}))
    assert encode_der(content) == request.body
    return found


def rev_rep(statuses: Sequence[bytes], cert_ids: Sequence[tuple[bytes, int]] = (), crls: Sequence[bytes] = ()) -> bytes:
    """A RevRepContent, written by pyasn1; DER of each PKIStatusInfo and CertificateList."""
    content = rfc9810.RevRepContent()
    for number, octets in enumerate(statuses):
        content["status"][number] = decode_der(octets, asn1Spec=rfc9810.PKIStatusInfo())[0]
    for number, (issuer, serial) in enumerate(cert_ids):
        one = content["revCerts"].componentType.clone()
        one["issuer"]["directoryName"]["rdnSequence"] = decode_der(issuer, asn1Spec=rfc5280.RDNSequence())[0]
        one["serialNumber"] = serial
        content["revCerts"][number] = one
    for number, octets in enumerate(crls):
        content["crls"][number] = decode_der(octets, asn1Spec=rfc5280.CertificateList())[0]
    return bytes(encode_der(content))


def general(request: Envelope) -> dict[str, bytes]:
    """The items of a genm, read by pyasn1: infoValue (b"" = absent) by infoType."""
    content, rest = decode_der(request.body, asn1Spec=rfc9810.GenMsgContent())
    assert rest == b""
    found = {}
    for item in content:
        value = item.getComponentByName("infoValue", instantiate=False)
        found[str(item["infoType"])] = b"" if value is noValue else bytes(value)
    return found


def gen_rep(items: Mapping[str, bytes]) -> bytes:
    """A GenRepContent."""
    return der.seq(*(der.seq(der.encode_oid(oid), value) for oid, value in items.items()))


def status_info(status: int, text: str, *bits: int) -> bytes:
    return der.seq(der.encode_integer(status), der.seq(der.encode_utf8(text)), der.encode_named_bits(*bits))


def error_content(text: str, *bits: int) -> bytes:
    return der.seq(status_info(2, text, *bits))


def forged(ca: Ca, **what: object) -> Ca:
    """The CA with this forged in its next answers."""
    ca.forge = replace(ca.forge, **what)
    return ca
