"""Keys that do not sign, and EnvelopedData read by another codec and another computation of what is in it."""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, padding, rsa, x448, x25519
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1.codec.der.encoder import encode as encode_der
from pyasn1_alt_modules import rfc5652, rfc5753, rfc9629

from cmpd.asn1 import der
from cmpd.client.messages import extension

_RSA = rsa.generate_private_key(65537, 2048)

KEYS: dict[str, Callable[[], Any]] = {
    "rsa": lambda: _RSA,  # the slow one
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "x25519": x25519.X25519PrivateKey.generate,
    "x448": x448.X448PrivateKey.generate,
    "mlkem768": mlkem.MLKEM768PrivateKey.generate,
    "mlkem1024": mlkem.MLKEM1024PrivateKey.generate,
}
AGREES = ("p256", "p384", "p521", "x25519", "x448")

_SCHEMES = {
    "1.3.132.1.11.1": ("x963", "sha256"),
    "1.3.132.1.11.2": ("x963", "sha384"),
    "1.3.132.1.11.3": ("x963", "sha512"),
    "1.2.840.113549.1.9.16.3.19": ("hkdf", "sha256"),
    "1.2.840.113549.1.9.16.3.21": ("hkdf", "sha512"),
}


def key_usage(*names: str) -> bytes:
    """The KeyUsage Extension."""
    bits = {"digitalSignature": 0, "keyEncipherment": 2, "keyAgreement": 4}
    return extension("2.5.29.15", der.encode_named_bits(*(bits[name] for name in names)), critical=True)


def encrypting_usage(kind: str) -> bytes:
    """The KeyUsage of a key that does not sign."""
    return key_usage("keyAgreement" if kind in AGREES else "keyEncipherment")


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def decrypt_independently(octets: bytes, key: Any) -> tuple[bytes, Any]:
    """(what is in an EnvelopedData (DER, a SEQUENCE), its decoded RecipientInfo)."""
    found, rest = decode_der(octets, asn1Spec=rfc5652.EnvelopedData())
    assert not rest
    assert len(found["recipientInfos"]) == 1
    content = found["encryptedContentInfo"]
    assert str(content["contentType"]) == "1.2.840.113549.1.7.1"
    algorithm = content["contentEncryptionAlgorithm"]
    assert str(algorithm["algorithm"]) == "2.16.840.1.101.3.4.1.42"  # AES-256-CBC
    iv = bytes(decode_der(bytes(algorithm["parameters"]))[0])
    info = found["recipientInfos"][0]
    content_key = {"ktri": _transport, "kari": _agreement, "ori": _kem}[info.getName()](info.getComponent(), key)
    versions = {"ktri": int(info.getComponent()["version"]) if info.getName() == "ktri" else 0, "kari": 2, "ori": 3}
    assert int(found["version"]) == versions[info.getName()]  # RFC 5652 section 6.1
    decryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).decryptor()
    padded = decryptor.update(bytes(content["encryptedContent"])) + decryptor.finalize()
    return padded[: -padded[-1]], info


def _transport(info: Any, key: rsa.RSAPrivateKey) -> bytes:
    assert str(info["keyEncryptionAlgorithm"]["algorithm"]) == "1.2.840.113549.1.1.7"
    return key.decrypt(bytes(info["encryptedKey"]), padding.OAEP(padding.MGF1(SHA256()), SHA256(), None))


def _agreement(info: Any, key: Any) -> bytes:
    assert int(info["version"]) == 3
    originator = info["originator"]["originatorKey"]
    peer = load_der_public_key(
        der.seq(encode_der(originator["algorithm"]), encode_der(originator["publicKey"])),
    )
    secret = key.exchange(ec.ECDH(), peer) if isinstance(key, ec.EllipticCurvePrivateKey) else key.exchange(peer)
    kdf, name = _SCHEMES[str(info["keyEncryptionAlgorithm"]["algorithm"])]
    wrap = bytes(info["keyEncryptionAlgorithm"]["parameters"])
    assert wrap == der.seq(der.encode_oid("2.16.840.1.101.3.4.1.45"))
    shared = rfc5753.ECC_CMS_SharedInfo()
    shared["keyInfo"]["algorithm"] = "2.16.840.1.101.3.4.1.45"
    shared["suppPubInfo"] = b"\0\0\1\0"
    other = encode_der(shared)
    kek = hashlib.new(name, secret + b"\0\0\0\1" + other).digest() if kdf == "x963" else hkdf(name, secret, other, 32)
    [one] = info["recipientEncryptedKeys"]
    return aes_key_unwrap(kek[:32], bytes(one["encryptedKey"]))


def _kem(info: Any, key: Any) -> bytes:
    assert str(info["oriType"]) == "1.2.840.113549.1.9.16.13.3"
    kem, rest = decode_der(bytes(info["oriValue"]), asn1Spec=rfc9629.KEMRecipientInfo())
    assert not rest
    assert int(kem["version"]) == 0
    assert str(kem["kdf"]["algorithm"]) == "1.2.840.113549.1.9.16.3.28"
    other = rfc9629.CMSORIforKEMOtherInfo()
    other["wrap"]["algorithm"] = str(kem["wrap"]["algorithm"])
    other["kekLength"] = int(kem["kekLength"])
    kek = hkdf("sha256", key.decapsulate(bytes(kem["kemct"])), encode_der(other), int(kem["kekLength"]))
    return aes_key_unwrap(kek, bytes(kem["encryptedKey"]))


def hkdf(name: str, secret: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 without salt."""
    prk = hmac.digest(bytes(hashlib.new(name).digest_size), secret, name)
    block, made, count = b"", b"", 0
    while len(made) < size:
        count += 1
        block = hmac.digest(prk, block + info + bytes((count,)), name)
        made += block
    return made[:size]


def spki(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def flipped(octets: bytes, positions: Sequence[int]) -> list[bytes]:
    """The octets with one bit changed, at each of these positions (modulo their number)."""
    made = []
    for position in positions:
        changed = bytearray(octets)
        changed[position % len(octets)] ^= 1 << position % 8
        made.append(bytes(changed))
    return made
