"""Requests of an end entity from fragments of DER: CertReqMsg with its POP, PKCS #10, certConf, header, protection.

Nothing here waits or keeps state: every function gives octets, so that a load generator can make thousands of requests
beforehand. Tagging: PKIXCMP is EXPLICIT, CRMF is IMPLICIT, and a tagged CHOICE (Name, Time, GeneralName) is explicit in
both (RFC 9810 appendix F, RFC 4211 appendix B).
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa, x448, x25519

from cmpd.asn1 import der
from cmpd.asn1.algorithms import certificate_hash, certificate_hash_name, hash_identifier
from cmpd.client.agreeing import agree_mac
from cmpd.client.certificates import Certificate
from cmpd.client.credentials import Protector, Protects
from cmpd.client.errors import ClientError
from cmpd.client.keys import (
    AnyPrivateKey,
    EncryptionPrivateKey,
    PrivateKey,
    public_key_info,
    sign,
    signature_algorithm,
)
from cmpd.env import Env
from cmpd.message import BODY_TYPES, NULL_DN, encode_message

EMPTY_NAME: Final = b"\x30\x00"
P10CR_ID: Final = -1
"""certReqId of the one certificate that a p10cr asks for (RFC 9810 section 5.3.4)."""

_OLD_CERT_ID: Final = der.encode_oid("1.3.6.1.5.5.7.5.1.5")
_REG_TOKEN: Final = der.encode_oid("1.3.6.1.5.5.7.5.1.1")
_AUTHENTICATOR: Final = der.encode_oid("1.3.6.1.5.5.7.5.1.2")
_CERT_PROFILE: Final = der.encode_oid("1.3.6.1.5.5.7.4.21")
_IMPLICIT_CONFIRM: Final = der.seq(der.encode_oid("1.3.6.1.5.5.7.4.13"), der.NULL_TLV)
_EXTENSION_REQUEST: Final = der.encode_oid("1.2.840.113549.1.9.14")
_REJECTION: Final = der.encode_integer(2)
_BAD_REQUEST: Final = der.encode_named_bits(2)
_HASH_ALG: Final = "sha512"


@dataclass(frozen=True, slots=True)
class Template:
    """What is asked of the CA for one key. Without `key`, `public_key` is asked for with raVerified: an RA only.

    `subject`: DER of the Name; EMPTY_NAME if the name is in subjectAltName alone; None leaves the field out, and POP is
    then made over poposkInput (RFC 4211 section 4.1). `extensions`: DER of each Extension. Times are Unix seconds.
    `replaces`: the certificate that a kur updates, named in the oldCertID control. `proof`: "encrCert" or
    "challengeResp" for a key that is not to sign; None: a signature, or encrCert if the key cannot. `agreement`: the
    server's key-agreement certificate; then agreeMAC is the proof. `signature`: the algorithm of a signature, one of
    asn1.signing.SIGNING; None: the usual one for the kind of key.
    """

    key: AnyPrivateKey | None = field(repr=False)
    subject: bytes | None
    extensions: tuple[bytes, ...] = ()
    not_before: int | None = None
    not_after: int | None = None
    issuer: bytes | None = None
    replaces: Certificate | None = None
    reg_token: str | None = field(default=None, repr=False)
    authenticator: str | None = field(default=None, repr=False)
    public_key: bytes | None = None
    cert_req_id: int = 0
    proof: str | None = None
    agreement: Certificate | None = None
    signature: str | None = None

    @property
    def later_proof(self) -> str | None:
        """What proves possession of the key after the request: a key of PROOFS, None = nothing."""
        if self.agreement is not None:
            return None
        return self.proof or ("encrCert" if isinstance(self.key, EncryptionPrivateKey) else None)

    @property
    def public_key_info(self) -> bytes:
        """DER of the SubjectPublicKeyInfo that is asked for."""
        if self.key is not None:
            return public_key_info(self.key)
        if self.public_key is None:
            raise ClientError("Template: want key or public_key")
        return self.public_key


@dataclass(frozen=True, slots=True)
class Request:
    """A message as sent, with what the answer is held against."""

    body: str
    der: bytes = field(repr=False)
    transaction_id: bytes
    sender_nonce: bytes
    protector: Protector = field(repr=False)


def cert_request(
    body: str,
    templates: Sequence[Template],
    credential: Protects,
    env: Env,
    *,
    implicit_confirm: bool = True,
    profile: str | None = None,
    recipient: bytes = NULL_DN,
    pvno: int | None = None,
) -> Request:
    """An ir, cr or kur with one CertReqMsg per template. `recipient`: DER of the CA's GeneralName.

    `pvno`: by default 3 if the CA has to encrypt something in its answer or verify agreeMAC, else 2.
    """
    if pvno is None:
        pvno = 3 if any(template.later_proof or template.agreement for template in templates) else 2
    protector = credential.protector(env)
    messages = der.seq(*(cert_req_msg(template, protector.sender) for template in templates))
    info = general_info(implicit_confirm=implicit_confirm, profile=profile)
    return protect(body, messages, protector, env, info=info, recipient=recipient, pvno=pvno)


def p10_request(
    certification_request: bytes,
    credential: Protects,
    env: Env,
    *,
    implicit_confirm: bool = True,
    profile: str | None = None,
    recipient: bytes = NULL_DN,
) -> Request:
    """A p10cr with this PKCS #10 CertificationRequest (DER)."""
    info = general_info(implicit_confirm=implicit_confirm, profile=profile)
    return protect("p10cr", certification_request, credential.protector(env), env, info=info, recipient=recipient)


def protect(
    body: str,
    content: bytes,
    protector: Protector,
    env: Env,
    *,
    info: Sequence[bytes] = (),
    recipient: bytes = NULL_DN,
    transaction_id: bytes | None = None,
    recip_nonce: bytes | None = None,
    pvno: int = 2,
) -> Request:
    """A PKIMessage, protected unless the credential is Unprotected.

    `content`: DER of the body's alternative; `info`: DER of each generalInfo item. Without `transaction_id` it is
    the first message of a transaction.
    """
    if protector.renewed is not None:
        fresh = protector.renewed()
        protector = replace(protector, algorithm=fresh.algorithm, compute=fresh.compute)
    if transaction_id is None:
        transaction_id, info = protector.transaction_id, (*info, *protector.info)
    transaction_id = transaction_id or env.random(16)
    nonce = env.random(16)
    optional: list[tuple[int, bytes | None]] = [
        (0, der.encode_generalized_time(env.now())),
        (1, protector.algorithm or None),
        (2, _octets(protector.sender_kid)),
        (4, der.encode_octets(transaction_id)),
        (5, der.encode_octets(nonce)),
        (6, _octets(recip_nonce)),
        (8, der.seq(*info) if info else None),
    ]
    fields = (der.explicit(number, value) for number, value in optional if value is not None)
    header = der.seq(der.encode_integer(pvno), protector.sender, recipient, *fields)
    part = header + der.explicit(BODY_TYPES[body], content)
    octets = encode_message(part, protector.compute(der.seq(part)) or None, protector.extra_certs)
    return Request(body, octets, transaction_id, nonce, protector)


def _octets(value: bytes | None) -> bytes | None:
    return None if value is None else der.encode_octets(value)


def general_info(*, implicit_confirm: bool = False, profile: str | None = None) -> list[bytes]:
    """Items of generalInfo: implicitConfirm, and certProfile with one name (RFC 9810 sections 5.1.1.1 and 5.1.1.4)."""
    info = [_IMPLICIT_CONFIRM] if implicit_confirm else []
    if profile is not None:
        info.append(der.seq(_CERT_PROFILE, der.seq(der.encode_utf8(profile))))
    return info


# --- CRMF ----------------------------------------------------------------------------------------------------------


def cert_req_msg(template: Template, sender: bytes) -> bytes:
    """A CertReqMsg with its ProofOfPossession (RFC 4211 sections 3 to 6). `sender`: the header's, DER."""
    request = der.seq(der.encode_integer(template.cert_req_id), cert_template(template), _controls(template))
    return der.seq(request, _popo(template, request, sender))


def cert_template(template: Template) -> bytes:
    """A CertTemplate: IMPLICIT tags, but issuer, subject and the Times are CHOICEs."""
    validity = b"".join(
        der.explicit(number, der.encode_time(moment))
        for number, moment in ((0, template.not_before), (1, template.not_after))
        if moment is not None
    )
    parts = [
        b"" if template.issuer is None else der.explicit(3, template.issuer),
        der.tlv(0xA4, validity) if validity else b"",
        b"" if template.subject is None else der.explicit(5, template.subject),
        _retag(0xA6, template.public_key_info),
        der.tlv(0xA9, b"".join(template.extensions)) if template.extensions else b"",
    ]
    return der.seq(*parts)


def _retag(tag: int, value: bytes) -> bytes:
    _, start, stop = der.header(value, 0, len(value))
    return der.tlv(tag, value[start:stop])


def _controls(template: Template) -> bytes:
    controls = []
    if template.reg_token is not None:
        controls.append(der.seq(_REG_TOKEN, der.encode_utf8(template.reg_token)))
    if template.authenticator is not None:
        controls.append(der.seq(_AUTHENTICATOR, der.encode_utf8(template.authenticator)))
    if template.replaces is not None:
        issuer = der.explicit(4, template.replaces.issuer)
        controls.append(der.seq(_OLD_CERT_ID, der.seq(issuer, der.encode_integer(template.replaces.serial))))
    return der.seq(*controls) if controls else b""


def _popo(template: Template, request: bytes, sender: bytes) -> bytes:
    if template.key is None:
        return b"\x80\x00"  # raVerified
    if template.agreement is not None:
        return agree_mac(template.key, template.agreement, request)
    if template.later_proof is not None:
        return _priv_key_popo(template.key, template.later_proof)
    assert isinstance(template.key, PrivateKey)  # noqa: S101 -- for the type checker: others have a later proof
    signed = request  # the CertRequest, not the CertTemplate (erratum 4797)
    poposk_input = b""
    if template.subject is None:
        signed = der.seq(der.explicit(0, sender), template.public_key_info)  # POPOSigningKeyInput
        poposk_input = _retag(0xA0, signed)
    signature = der.encode_bits(sign(template.key, signed, template.signature))
    algorithm = signature_algorithm(template.key, template.signature)
    return der.tlv(0xA1, poposk_input + algorithm.identifier + signature)


PROOFS: Final = {"encrCert": 0, "challengeResp": 1}
"""SubsequentMessage (RFC 4211 section 4.2)."""


def _agrees(key: AnyPrivateKey) -> bool:
    return isinstance(key, ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | x448.X448PrivateKey)


def encrypts(key: AnyPrivateKey) -> bool:
    """Whether something can be encrypted to the holder of a key."""
    return _agrees(key) or isinstance(key, rsa.RSAPrivateKey | EncryptionPrivateKey)


def encrypting_usage(key: AnyPrivateKey) -> bytes:
    """The keyUsage Extension for a key that is to encrypt alone: keyAgreement or keyEncipherment."""
    return extension("2.5.29.15", der.encode_named_bits(4 if _agrees(key) else 2), critical=True)


def _priv_key_popo(key: AnyPrivateKey, proof: str) -> bytes:
    """KeyAgreement [3] for keys that agree on a secret, else keyEncipherment [2]; a tagged CHOICE is explicit."""
    return der.explicit(3 if _agrees(key) else 2, der.tlv(0x81, bytes((PROOFS[proof],))))


# --- PKCS #10 and extensions -----------------------------------------------------------------------------------------


def certification_request(template: Template) -> bytes:
    """A PKCS #10 CertificationRequest (RFC 2986) for the key, subject and extensions of a template."""
    if not isinstance(template.key, PrivateKey):
        raise ClientError("CertificationRequest: want a private key to sign it with")
    attributes = b""
    if template.extensions:
        attributes = der.seq(_EXTENSION_REQUEST, der.tlv(der.SET, der.seq(*template.extensions)))
    info = der.seq(
        der.encode_integer(0), template.subject or EMPTY_NAME, template.public_key_info, der.tlv(0xA0, attributes)
    )
    algorithm = signature_algorithm(template.key, template.signature)
    return der.seq(info, algorithm.identifier, der.encode_bits(sign(template.key, info, template.signature)))


def public_key_of(request: bytes) -> bytes:
    """DER of the SubjectPublicKeyInfo in a PKCS #10 CertificationRequest; DerError if it is none."""
    start, stop = der.expect(request, 0, len(request), der.SEQUENCE, "CertificationRequest")
    start, stop = der.expect(request, start, stop, der.SEQUENCE, "certificationRequestInfo")
    fields = der.children(request, start, stop, 4)
    if len(fields) < 3 or fields[2][0] != der.SEQUENCE:
        raise der.DerError("certificationRequestInfo: subjectPKInfo is missing")
    return request[fields[2][1] : fields[2][3]]


def _ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


_GENERAL_NAMES: Final[dict[str, tuple[int, Callable[[str], bytes]]]] = {
    "email": (0x81, lambda text: text.encode("ascii")),
    "dns": (0x82, lambda text: text.encode("idna" if not text.isascii() else "ascii")),
    "uri": (0x86, lambda text: text.encode("ascii")),
    "ip": (0x87, _ip),
}


def subject_alt_name(names: Sequence[str], *, critical: bool = False) -> bytes:
    """The subjectAltName Extension of names "dns:HOST", "ip:ADDRESS", "email:ADDRESS", "uri:URI".

    It must be critical when the subject is empty (RFC 5280 section 4.2.1.6).
    """
    encoded = []
    for name in names:
        kind, colon, text = name.partition(":")
        row = _GENERAL_NAMES.get(kind.lower()) if colon and text else None
        if row is None:
            raise ClientError(f"subjectAltName: want dns:, ip:, email: or uri: and a name, have {name!r}")
        try:
            encoded.append(der.tlv(row[0], row[1](text)))
        except ValueError as error:
            raise ClientError(f"subjectAltName {name!r}: {error}") from None
    return extension("2.5.29.17", der.seq(*encoded), critical=critical)


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """An Extension with this DER inside extnValue."""
    flag = der.encode_boolean(True) if critical else b""
    return der.seq(der.encode_oid(oid), flag, der.encode_octets(value))


# --- the end of a transaction ----------------------------------------------------------------------------------------


def cert_status(certificate: Certificate, cert_req_id: int, reject: str | None = None) -> bytes:
    """A CertStatus: acceptance, or with `reject` rejection for this reason (RFC 9810 section 5.3.18).

    It has hashAlg, which wants pvno 3, if the certificate's signature names no hash (ML-DSA): see `confirm_pvno`.
    """
    refusal = b"" if reject is None else _status_info(reject)
    hash_alg = b"" if _hash_name(certificate) else der.explicit(0, hash_identifier(_HASH_ALG))
    return der.seq(der.encode_octets(cert_hash(certificate)), der.encode_integer(cert_req_id), refusal, hash_alg)


def confirm_pvno(certificates: Iterable[Certificate]) -> int:
    """The pvno of a certConf for these certificates (RFC 9483 section 3.1)."""
    return 2 if all(map(_hash_name, certificates)) else 3


def error_content(text: str) -> bytes:
    """An ErrorMsgContent with status rejection, badRequest and this text."""
    return der.seq(_status_info(text))


def _status_info(text: str) -> bytes:
    return der.seq(_REJECTION, der.seq(der.encode_utf8(text)), _BAD_REQUEST)


def cert_hash(certificate: Certificate) -> bytes:
    """certHash: the certificate under the hash of its own signature algorithm (RFC 9481 sections 2 and 3).

    SHA-512 if that has none: it is what goes with all of ML-DSA in CMS (RFC 9882 section 3.3).
    """
    return certificate_hash(_hash_name(certificate) or _HASH_ALG, certificate.der)


def _hash_name(certificate: Certificate) -> str | None:
    return certificate_hash_name(certificate.signature_algorithm)
