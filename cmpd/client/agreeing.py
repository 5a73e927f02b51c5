"""Proof-of-possession at once, by a MAC under what the key agrees on with the server's key (RFC 4211 section 4.3).

EC keys do it as RFC 6955 section 6 has it, with the hash that fits the curve; X25519 and X448, which have no identifier
there, by DHBasedMac.
"""

from cryptography.hazmat.primitives.asymmetric import ec

from cmpd import static_dh
from cmpd.asn1 import der
from cmpd.client.certificates import Certificate
from cmpd.client.errors import ClientError
from cmpd.client.keys import AnyPrivateKey
from cmpd.cms.agreement import AgreementPrivateKey, agree
from cmpd.protection import dhbm

_OIDS = {name: oid for oid, name in static_dh.ECDH_POP.items()}


def agree_mac(key: AnyPrivateKey, certificate: Certificate, request: bytes) -> bytes:
    """ProofOfPossession keyAgreement agreeMAC over a CertRequest (DER), for the server's key-agreement certificate.

    ClientError if the two keys are not of one kind.
    """
    if not isinstance(key, AgreementPrivateKey):
        raise ClientError("agreeMAC: want an EC, X25519 or X448 key, have another")
    try:
        shared = agree(key, certificate.parsed.public_key())
    except (TypeError, ValueError):
        raise ClientError("agreeMAC: want a key of the same kind as the server's, have another") from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        name = {256: "sha256", 384: "sha384"}.get(key.key_size, "sha512")
        serial = der.encode_integer(certificate.serial)[2:]
        algorithm = der.seq(der.tlv(der.OID, _OIDS[name]))
        mac_key = static_dh.temporary_key(name, shared, certificate.subject, certificate.issuer)
        mac = static_dh.compute(name, mac_key, request)
        value = static_dh.encode_value(mac, certificate.issuer, serial)
    else:
        scheme = dhbm.build()
        algorithm, value = scheme.algorithm, scheme.compute(scheme.derive(shared), request)
    return der.explicit(3, der.tlv(0xA3, algorithm + der.encode_bits(value)))  # a tagged CHOICE is explicit
