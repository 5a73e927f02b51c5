"""The certificates that must exist before a CA can issue any: its own, or the request for it, and its server's.

Built from DER fragments like all others of this CA. `path_to_root` is how a certificate made elsewhere is taken in.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.asn1 import der, names
from cmpd.asn1.signing import SigningPrivateKey, signature_algorithm
from cmpd.cms.agreement import AgreementPrivateKey
from cmpd.config_values import DAY, HOUR
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.private_keys import EncryptionPrivateKey
from cmpd.signatures import is_signed
from cmpd.signing.file import public_key_info
from cmpd.signing.kem import KemPrivateKey

ROOT_VALIDITY: Final = 7305 * DAY
CMP_VALIDITY: Final = 1826 * DAY
BACKDATE: Final = HOUR
"""A CA begins this much before now, so that the first certificates do not begin before it."""

_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_KEY_USAGE: Final = "2.5.29.15"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"
_SUBJECT_KEY_ID: Final = "2.5.29.14"
_AUTHORITY_KEY_ID: Final = "2.5.29.35"
CMC_CA: Final = "1.3.6.1.5.5.7.3.27"
_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"
_DIGITAL_SIGNATURE, _KEY_ENCIPHERMENT, _KEY_AGREEMENT, _KEY_CERT_SIGN, _CRL_SIGN = 0, 2, 4, 5, 6
_MAX_COMMON_NAME: Final = 64
_COMMON_NAME: Final = der.tlv(der.OID, names.COMMON_NAME)


def root_certificate(key: SigningPrivateKey, subject: bytes, env: Env) -> bytes:
    """DER of a self-signed CA certificate for `subject` (DER of a Name)."""
    spki = public_key_info(key)
    extensions = (*_ca_extensions(), _extension(_SUBJECT_KEY_ID, der.encode_octets(_key_id(spki))))
    now = int(env.now())
    return _signed(_tbs(key, subject, (now - BACKDATE, now + ROOT_VALIDITY), subject, spki, extensions, env), key)


def cmp_certificate(key: SigningPrivateKey, ca_key: SigningPrivateKey, ca_certificate: bytes, env: Env) -> bytes:
    """DER of the certificate of `key` that signs CMP responses (id-kp-cmcCA), issued by the CA."""
    return _own_certificate(key, "CMP", _speaking(_DIGITAL_SIGNATURE), ca_key, ca_certificate, env)


def encryption_certificate(key: rsa.RSAPrivateKey, ca_key: SigningPrivateKey, ca_certificate: bytes, env: Env) -> bytes:
    """DER of the certificate of `key` that clients encrypt to (caProtEncCert), issued by the CA."""
    usage = _extension(_KEY_USAGE, der.encode_named_bits(_KEY_ENCIPHERMENT), critical=True)
    return _own_certificate(key, "encryption", (usage,), ca_key, ca_certificate, env)


def agreement_certificate(
    key: AgreementPrivateKey, ca_key: SigningPrivateKey, ca_certificate: bytes, env: Env
) -> bytes:
    """DER of the certificate of `key`, the server's static Diffie-Hellman key, issued by the CA."""
    return _own_certificate(key, "agreement", _speaking(_KEY_AGREEMENT), ca_key, ca_certificate, env)


def kem_certificate(key: KemPrivateKey, ca_key: SigningPrivateKey, ca_certificate: bytes, env: Env) -> bytes:
    """DER of the certificate of `key`, the server's KEM key, issued by the CA (RFC 9935 section 5: keyEncipherment)."""
    return _own_certificate(key, "KEM", _speaking(_KEY_ENCIPHERMENT), ca_key, ca_certificate, env)


def _speaking(usage: int) -> tuple[bytes, bytes]:
    """The extensions of a certificate whose key protects what the server says for the CA (RFC 9810 section 4.5)."""
    return (
        _extension(_KEY_USAGE, der.encode_named_bits(usage), critical=True),
        _extension(_EXTENDED_KEY_USAGE, der.seq(der.encode_oid(CMC_CA))),
    )


def _own_certificate(
    key: SigningPrivateKey | EncryptionPrivateKey,
    role: str,
    extensions: Sequence[bytes],
    ca_key: SigningPrivateKey,
    ca_certificate: bytes,
    env: Env,
) -> bytes:
    """DER of a certificate that the CA issues for its own server; `role` ends its name."""
    spki = public_key_info(key)
    ca = x509.load_der_x509_certificate(ca_certificate)
    issuer = _subject_of(ca_certificate)
    try:
        ca_key_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        ca_key_id = _key_id(public_key_info(ca_key))
    identifiers = (
        _extension(_SUBJECT_KEY_ID, der.encode_octets(_key_id(spki))),
        _extension(_AUTHORITY_KEY_ID, der.seq(der.tlv(0x80, ca_key_id))),
    )
    now = int(env.now())
    ca_start, ca_end = int(ca.not_valid_before_utc.timestamp()), int(ca.not_valid_after_utc.timestamp())
    validity = max(now - BACKDATE, ca_start), min(now + CMP_VALIDITY, ca_end)
    subject = role_subject(issuer, role)
    return _signed(_tbs(ca_key, issuer, validity, subject, spki, (*extensions, *identifiers), env), ca_key)


def role_subject(issuer: bytes, role: str) -> bytes:
    """The CA's name with " ROLE" after its (last) commonName, or with CN=ROLE if it has none; DER of Names.

    The CA's commonName is cut so that the whole has at most 64 characters (RFC 5280 ub-common-name).
    """
    rdns = _members(issuer, der.SEQUENCE)
    texts = [names.attribute_texts((rdn,), names.COMMON_NAME) for rdn in names.read_name(issuer)]
    place = max((i for i, found in enumerate(texts) if found), default=None)
    if place is None:
        return der.seq(*rdns, der.tlv(der.SET, _common_name(role)))
    others = [one for one in _members(rdns[place], der.SET) if _members(one, der.SEQUENCE)[0] != _COMMON_NAME]
    common_name = f"{texts[place][0][: _MAX_COMMON_NAME - 1 - len(role)]} {role}"
    rdns[place] = der.tlv(der.SET, b"".join(sorted([*others, _common_name(common_name)])))
    return der.seq(*rdns)


def _members(value: bytes, tag: int) -> list[bytes]:
    start, stop = der.expect(value, 0, len(value), tag, "Name")
    return [value[pos:after] for _, pos, _, after in der.children(value, start, stop)]


def _common_name(text: str) -> bytes:
    return der.seq(_COMMON_NAME, der.encode_utf8(text))


def _ca_extensions() -> tuple[bytes, bytes]:
    return (
        _extension(_BASIC_CONSTRAINTS, der.seq(der.encode_boolean(True)), critical=True),
        _extension(_KEY_USAGE, der.encode_named_bits(_KEY_CERT_SIGN, _CRL_SIGN), critical=True),
    )


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return der.seq(der.encode_oid(oid), der.encode_boolean(True) if critical else b"", der.encode_octets(value))


def _tbs(
    signer: SigningPrivateKey,
    issuer: bytes,
    validity: tuple[int, int],
    subject: bytes,
    spki: bytes,
    extensions: Sequence[bytes],
    env: Env,
) -> bytes:
    serial = env.random(16)
    return der.seq(
        der.explicit(0, der.encode_integer(2)),
        der.tlv(der.INTEGER, bytes((serial[0] & 0x3F | 0x40,)) + serial[1:]),  # positive, 126 random bits
        signature_algorithm(signer).identifier,
        issuer,
        der.seq(der.encode_time(validity[0]), der.encode_time(validity[1])),
        subject,
        spki,
        der.explicit(3, der.seq(*extensions)),
    )


def request(key: SigningPrivateKey, subject: bytes) -> bytes:
    """A CertificationRequest (RFC 2986) that asks for the extensions of a CA."""
    wanted = der.seq(der.encode_oid(_EXTENSION_REQUEST), der.tlv(der.SET, der.seq(*_ca_extensions())))
    info = der.seq(der.encode_integer(0), subject, public_key_info(key), der.tlv(0xA0, wanted))
    return _signed(info, key)


def _signed(octets: bytes, key: SigningPrivateKey) -> bytes:
    algorithm = signature_algorithm(key)
    return der.seq(octets, algorithm.identifier, der.encode_bits(algorithm.sign(key, octets)))


def _key_id(spki: bytes) -> bytes:
    """The key identifier of method 1 in RFC 7093: 160 bits of the SHA-256 of the subjectPublicKey."""
    start, stop = der.expect(spki, 0, len(spki), der.SEQUENCE, "SubjectPublicKeyInfo")
    _, (_, _, bits, end) = der.children(spki, start, stop)
    return hashlib.sha256(spki[bits + 1 : end]).digest()[:20]


def _subject_of(certificate: bytes) -> bytes:
    """The octets of the subject of a certificate (DER) that has been parsed before."""
    tbs = der.header(certificate, 0, len(certificate))[1]
    _, start, stop = der.header(certificate, tbs, len(certificate))
    fields = der.children(certificate, start, stop)
    _, pos, _, after = fields[5 if fields[0][0] == 0xA0 else 4]
    return certificate[pos:after]


# --- the path of a subordinate CA ------------------------------------------------------------------------------------


def path_to_root(certificate: bytes, others: Sequence[bytes], now: int) -> list[bytes]:
    """The certificates above a CA certificate, from its issuer to a self-signed root; ConfigError if it has none."""
    path = [certificate]
    _check_ca(x509.load_der_x509_certificate(certificate), 0, now)
    while True:
        lowest = x509.load_der_x509_certificate(path[-1])
        if issued(lowest, lowest):
            break
        for other in others:
            if other not in path and issued(lowest, x509.load_der_x509_certificate(other)):
                path.append(other)
                break
        else:
            raise ConfigError(
                f"the certificate of {lowest.issuer.rfc4514_string()} is missing: "
                f"give all CAs above with --chain FILE, up to the root"
            )
        _check_ca(x509.load_der_x509_certificate(path[-1]), len(path) - 1, now)
    if len(path) == 1:
        raise ConfigError("the certificate is self-signed: a subordinate CA needs one issued by the CA above it")
    return path[1:]


def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether `issuer` has the name and the key that `certificate` was signed with."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except UnsupportedAlgorithm:  # ECDSA with SHAKE
        return certificate.issuer == issuer.subject and _is_signed(certificate, issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _is_signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    octets = certificate.public_bytes(Encoding.DER)
    _, start, stop = der.header(octets, 0, len(octets))
    _, (_, first, _, last), _ = der.children(octets, start, stop, 3)
    return is_signed(octets[first:last], issuer.public_key(), certificate.signature, certificate.tbs_certificate_bytes)


def _check_ca(certificate: x509.Certificate, below: int, now: int) -> None:
    """ConfigError unless this is a CA certificate that is valid now and may have `below` CA certificates under it."""
    subject = certificate.subject.rfc4514_string()
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise ConfigError(
            f"the certificate of {subject} is not that of a CA: want basicConstraints and keyUsage"
        ) from error
    if not constraints.ca or not usage.key_cert_sign:
        raise ConfigError(f"the certificate of {subject} is not that of a CA: want CA:TRUE and keyCertSign")
    if not below and not usage.crl_sign:  # those above publish their own CRLs, with whatever certificate they like
        raise ConfigError(
            f"the certificate of {subject} does not allow to sign CRLs: want cRLSign in keyUsage; ask for another one"
        )
    if constraints.path_length is not None and constraints.path_length < below:
        raise ConfigError(
            f"the certificate of {subject} allows {constraints.path_length} CAs below it (pathLenConstraint), "
            f"there are {below}"
        )
    if not certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp():
        raise ConfigError(
            f"the certificate of {subject} is not valid now: {certificate.not_valid_before_utc} to "
            f"{certificate.not_valid_after_utc}"
        )
