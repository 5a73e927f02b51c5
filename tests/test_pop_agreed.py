"""Possession shown at once, by a MAC under what the key and the server's static Diffie-Hellman key agree on."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pyasn1.codec.der.decoder import decode as decode_der
from pyasn1_alt_modules import rfc4211, rfc6955

from cmpd import static_dh
from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.client.agreeing import agree_mac
from cmpd.client.certificates import Certificate
from cmpd.client.errors import ClientError
from cmpd.client.flows import Client
from cmpd.client.messages import (
    Template,
    cert_request,
    certification_request,
    p10_request,
    protect,
    public_key_info,
)
from cmpd.config import ProfileConfig
from cmpd.protection.base import ProtectionPolicy
from cmpd.records import CertificateState
from tests.pops import AGREES, KEYS, encrypting_usage, flipped, key_usage, spki
from tests.test_pop_encrcert import STRICT, Direct, only
from tests.world import Seen, World

ECDH_POP = {"sha224": 25, "sha256": 26, "sha384": 27, "sha512": 28}
ZZ = bytes.fromhex(
    "56b60139428e091630b0314d1290af03c79265c29cba88bb0ad59402ed6f54cb22e594b4d66072bcf6a52b188ddf2872"
    "ace041dd3b032a129e5dbd72a01efb6beec5b21659ee12003bc8e0cbc5088e2d405f2d37628c4fbb4976693c9efc2cf7"
    "f950c1b9f701324c96b9c356c02c1b773f2f36e822c82e0776d04f7faad5c059"
)
"""RFC 6955 appendix B, step 3."""


def make(kind: str, **fields: Any) -> World:
    return World(agreement_key=KEYS[kind](), **fields)


def agreed(world: World, key: Any) -> bytes:
    """The shared value, by the server's own private key."""
    server = world.agreement_key
    if isinstance(server, ec.EllipticCurvePrivateKey):
        return bytes(server.exchange(ec.ECDH(), key.public_key()))
    return bytes(server.exchange(key.public_key()))


def named(world: World) -> tuple[bytes, bytes, int]:
    """(subject, issuer, serial number) of the server's certificate, by the library."""
    assert world.agreement is not None
    loaded = x509.load_der_x509_certificate(world.agreement.certificate)
    return loaded.subject.public_bytes(), loaded.issuer.public_bytes(), loaded.serial_number


def ecdh_pop(world: World, key: Any, text: bytes, name: str, *, lead: bytes | None = None) -> bytes:
    """RFC 6955 section 6 straight from the text."""
    subject, issuer, _ = named(world)
    temporary = hashlib.new(name, (lead or subject) + agreed(world, key) + issuer).digest()
    return hmac.new(temporary, text, name).digest()


def dh_sig_static(world: World, mac: bytes, serial: int | None = None) -> bytes:
    _, issuer, own = named(world)
    return der.seq(der.seq(issuer, der.encode_integer(own if serial is None else serial)), der.encode_octets(mac))


def algorithm(name: str) -> bytes:
    return der.seq(der.encode_oid(f"1.3.6.1.5.5.7.6.{ECDH_POP[name]}"))


def dhbm(world: World, key: Any, text: bytes) -> tuple[bytes, bytes]:
    """(AlgorithmIdentifier, MAC) of DHBasedMac with SHA-384 and HMAC-SHA256 (RFC 9810 section 5.1.3.2)."""
    owf, inner = der.seq(der.encode_oid("2.16.840.1.101.3.4.2.2")), der.seq(der.encode_oid("1.2.840.113549.2.9"))
    parameters = der.seq(der.encode_oid("1.2.840.113533.7.66.30"), der.seq(owf, inner))
    temporary = hashlib.sha384(agreed(world, key)).digest()
    return parameters, hmac.digest(temporary, text, "sha256")


def pbm(world: World, key: Any, text: bytes, count: int = 1000) -> tuple[bytes, bytes]:
    """The same of PasswordBasedMac with the shared value as password (RFC 4211 section 4.4)."""
    owf, inner = der.seq(der.encode_oid("2.16.840.1.101.3.4.2.1")), der.seq(der.encode_oid("1.2.840.113549.2.9"))
    fields = der.seq(der.encode_octets(b"salt of 16 octet"), owf, der.encode_integer(count), inner)
    temporary = agreed(world, key) + b"salt of 16 octet"
    for _ in range(count):
        temporary = hashlib.sha256(temporary).digest()
    return der.seq(der.encode_oid("1.2.840.113533.7.66.13"), fields), hmac.digest(temporary, text, "sha256")


def agree_popo(algorithm: bytes, value: bytes, choice: int = 3) -> bytes:
    return der.explicit(choice, der.tlv(0xA3, algorithm + der.encode_bits(value)))


def dh_popo(value: bytes) -> bytes:
    return der.explicit(3, der.tlv(0x82, b"\0" + value))


def signature_popo(algorithm: bytes, value: bytes) -> bytes:
    return der.tlv(0xA1, algorithm + der.encode_bits(value))


Popo = Callable[[bytes], bytes]
"""DER of certReq -> DER of its ProofOfPossession."""


async def ask(
    world: World,
    key: Any,
    popo: Popo,
    *,
    subject: bytes | None = None,
    extensions: tuple[bytes, ...] | None = None,
    pvno: int = 3,
    origin: Any = None,
    credential: Any = None,
) -> Seen:
    """What comes of an ir whose popo is put together here."""
    secret = credential or await world.add_secret()
    name = encode_name("/CN=device") if subject is None else subject
    usage = (key_usage("keyAgreement"),) if extensions is None else extensions
    carrier = Template(KEYS["x25519"](), name or None, usage, public_key=None)
    made = cert_request("ir", [replace(carrier, key=None, public_key=spki(key))], secret, world.env)
    body = made.der
    message = der.children(body, *der.header(body, 0, len(body))[1:], 5)[1]
    _, start, stop = der.header(body, message[1], message[3])
    for _ in range(2):  # CertReqMessages, CertReqMsg
        start, stop = der.header(body, start, stop)[1:]
    after = der.header(body, start, stop)[2]
    request = body[start:after]
    content = der.seq(der.seq(request, popo(request)))
    sent = protect("ir", content, made.protector, world.env, pvno=pvno)
    seen = await world.ask(sent, secret, *(() if origin is None else (origin,)))
    assert seen.body == "ip"
    return seen


def granted(seen: Seen, key: Any) -> bool:
    return seen.status()[0] in (0, 1) and seen.certificate().public_key_info == spki(key)


# --- right -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", AGREES)
async def test_the_client_shows_possession_by_agreemac(kind: str) -> None:
    world, key = make(kind), KEYS[kind]()
    assert world.agreement is not None
    exchange = Direct(world)
    client = Client(exchange, await world.add_secret(), world.trust, world.env)
    agreement = Certificate.load(world.agreement.certificate)
    template = Template(key, encode_name("/CN=device"), (encrypting_usage(kind),), agreement=agreement)
    [result] = await client.enrol_all("ir", [template])
    assert not isinstance(result, ClientError)
    assert result.certificate.public_key_info == public_key_info(key)
    assert [seen.body for seen in exchange.seen] == ["ip"]
    assert (await only(world)).state is CertificateState.CONFIRMED  # implicitly: possession is proven


@pytest.mark.parametrize("form", ["DhSigStatic", "without a certificate", "the MAC alone"])
@pytest.mark.parametrize("name", ECDH_POP)
async def test_static_ecdh_in_each_form_and_with_each_hash(name: str, form: str) -> None:
    world, key = make("p256"), KEYS["p256"]()

    def popo(request: bytes) -> bytes:
        mac = ecdh_pop(world, key, request, name)
        value = {
            "DhSigStatic": dh_sig_static(world, mac),
            "without a certificate": der.seq(der.encode_octets(mac)),
            "the MAC alone": mac,
        }[form]
        return agree_popo(algorithm(name), value)

    assert granted(await ask(world, key, popo), key)


@pytest.mark.parametrize("kind", AGREES)
@pytest.mark.parametrize("scheme", [dhbm, pbm])
async def test_other_macs_by_what_is_agreed_on(scheme: Any, kind: str) -> None:
    world, key = make(kind), KEYS[kind]()
    assert granted(await ask(world, key, lambda request: agree_popo(*scheme(world, key, request))), key)


@pytest.mark.parametrize("kind", AGREES)
@pytest.mark.parametrize("pvno", [2, 3])
async def test_dhmac_is_taken_with_each_version(pvno: int, kind: str) -> None:
    world, key = make(kind), KEYS[kind]()
    seen = await ask(world, key, lambda request: dh_popo(ecdh_pop(world, key, request, "sha1")), pvno=pvno)
    assert granted(seen, key)
    assert seen.envelope.header.pvno == pvno


async def test_a_mac_in_the_place_of_a_signature() -> None:
    world, key = make("x448"), KEYS["x448"]()
    assert granted(await ask(world, key, lambda request: signature_popo(*dhbm(world, key, request))), key)


async def test_a_strict_door_takes_agreemac() -> None:
    world, key = make("x25519"), KEYS["x25519"]()
    seen = await ask(world, key, lambda request: agree_popo(*dhbm(world, key, request)), origin=STRICT)
    assert granted(seen, key)


@pytest.mark.parametrize("kind", ["p384", "x25519"])
async def test_a_pkcs10_whose_signature_is_such_a_mac(kind: str) -> None:
    world, key = make(kind), KEYS[kind]()
    secret = await world.add_secret()
    made = certification_request(Template(KEYS["p256"](), encode_name("/CN=device"), (encrypting_usage(kind),)))
    start, stop = der.header(made, 0, len(made))[1:]
    inner = der.header(made, start, stop)[1]
    fields = der.children(made, inner, der.header(made, start, stop)[2], 10)
    parts = [made[pos:after] for _, pos, _, after in fields]
    parts[2] = spki(key)
    info = der.seq(*parts)
    if kind == "p384":
        value = dh_sig_static(world, ecdh_pop(world, key, info, "sha384"))
        octets = der.seq(info, algorithm("sha384"), der.encode_bits(value))
    else:
        identifier, value = dhbm(world, key, info)
        octets = der.seq(info, identifier, der.encode_bits(value))
    seen = await world.ask(p10_request(octets, secret, world.env), secret)
    assert seen.body == "cp"
    assert granted(seen, key)


def test_the_example_of_rfc_6955_has_this_temporary_key() -> None:
    subject, issuer = (
        encode_name(f"/C=US/O=XETI Inc/OU=Testing/CN={name}").replace(b"\x0c", b"\x13")
        for name in ("DH TestCA", "Root DSA CA")
    )
    assert subject[:4] == bytes.fromhex("3046310b")
    assert static_dh.temporary_key("sha1", ZZ, subject, issuer).hex() == "b191d7db4fc5efefac9ac5445a6d4228dc707bda"


def test_another_codec_reads_what_the_client_makes() -> None:
    world, key = make("p521"), KEYS["p521"]()
    assert world.agreement is not None
    popo = agree_mac(key, Certificate.load(world.agreement.certificate), b"certReq")
    found, rest = decode_der(popo, asn1Spec=rfc4211.ProofOfPossession())
    assert not rest
    mac = found["keyAgreement"]["agreeMAC"]
    assert str(mac["algId"]["algorithm"]) == "1.3.6.1.5.5.7.6.28"
    value, rest = decode_der(mac["value"].asOctets(), asn1Spec=rfc6955.DhSigStatic())
    assert not rest
    assert int(value["issuerAndSerial"]["serialNumber"]) == named(world)[2]
    assert bytes(value["hashValue"]) == ecdh_pop(world, key, b"certReq", "sha512")


def test_the_client_has_no_such_proof_for_other_keys() -> None:
    world = make("p256")
    assert world.agreement is not None
    agreement = Certificate.load(world.agreement.certificate)
    with pytest.raises(ClientError, match="want an EC, X25519 or X448 key"):
        agree_mac(ed25519.Ed25519PrivateKey.generate(), agreement, b"")
    for kind in ("p384", "x25519"):
        with pytest.raises(ClientError, match="of the same kind as the server's"):
            agree_mac(KEYS[kind](), agreement, b"")


# --- wrong -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p256", "rsa", "x25519"])
async def test_a_server_without_such_a_key_says_so(kind: str) -> None:
    world, key = World(), KEYS[kind]()
    seen = await ask(world, key, lambda _: agree_popo(algorithm("sha256"), bytes(32)))
    assert seen.status()[2] == {"badPOP"}
    if kind != "rsa":
        assert "lacks a key-agreement key and its certificate" in seen.status()[1]


async def test_every_changed_bit_of_the_mac_is_wrong() -> None:
    world, key = make("x25519"), KEYS["x25519"]()
    secret = await world.add_secret()
    for index in range(0, 32, 5):

        def popo(request: bytes, index: int = index) -> bytes:
            identifier, mac = dhbm(world, key, request)
            return agree_popo(identifier, flipped(mac, [index])[0])

        seen = await ask(world, key, popo, credential=secret)
        assert seen.status()[2] == {"badPOP"}
    assert await world.store.list_certificates() == []


@pytest.mark.parametrize("size", [0, 1, 31, 33])
async def test_a_mac_of_another_length_is_wrong(size: int) -> None:
    world, key = make("p256"), KEYS["p256"]()

    def popo(request: bytes) -> bytes:
        return agree_popo(algorithm("sha256"), (ecdh_pop(world, key, request, "sha256") + b"x")[:size])

    assert (await ask(world, key, popo)).status()[2] == {"badDataFormat"}
    other = make("p256")
    seen = await ask(other, key, lambda request: agree_popo(dhbm(other, key, request)[0], bytes(size)))
    assert seen.status()[2] == {"badPOP"}


@pytest.mark.parametrize("what", ["text", "key", "server", "names", "certificate", "hash"])
async def test_a_mac_over_something_else_or_under_another_key_is_wrong(what: str) -> None:
    world, key, other = make("p256"), KEYS["p256"](), KEYS["p256"]()
    elsewhere = make("p256")

    def popo(request: bytes) -> bytes:
        text = request[:-1] + bytes((request[-1] ^ 1,)) if what == "text" else request
        mac = ecdh_pop(
            elsewhere if what == "server" else world,
            other if what == "key" else key,
            text,
            "sha384" if what == "hash" else "sha256",
            lead=b"\x30\0" if what == "names" else None,
        )
        return agree_popo(algorithm("sha256"), dh_sig_static(world, mac[:32], 7 if what == "certificate" else None))

    assert (await ask(world, key, popo)).status()[2] == {"badPOP"}
    assert await world.store.list_certificates() == []


async def test_another_kind_of_key_than_the_servers_is_refused() -> None:
    world = make("p256")
    for kind in ("p384", "x25519"):
        elsewhere, key = make(kind), KEYS[kind]()

        def popo(request: bytes, elsewhere: World = elsewhere, key: Any = key) -> bytes:
            return agree_popo(*dhbm(elsewhere, key, request))

        seen = await ask(world, key, popo, credential=await world.add_secret(kind))
        assert seen.status()[2] == {"badAlg"}


async def test_points_of_small_order_agree_on_nothing() -> None:
    """With them anybody would know the shared value, which is zero."""

    class Point:
        def __init__(self, octets: bytes) -> None:
            self.info = der.seq(der.seq(der.encode_oid("1.3.101.110")), der.encode_bits(octets))

        def public_key(self) -> "Point":
            return self

        def public_bytes(self, *_: Any) -> bytes:
            return self.info

    world = make("x25519")
    secret = await world.add_secret()
    for octets in (bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")):
        temporary = hashlib.sha384(bytes(32)).digest()

        def popo(request: bytes, temporary: bytes = temporary) -> bytes:
            identifier = dhbm(world, KEYS["x25519"](), b"")[0]
            return agree_popo(identifier, hmac.digest(temporary, request, "sha256"))

        seen = await ask(world, Point(octets), popo, credential=secret)
        assert seen.status()[0] == 2
    assert await world.store.list_certificates() == []


async def test_agreemac_needs_pvno_3_and_a_subject() -> None:
    world, key = make("x25519"), KEYS["x25519"]()
    secret = await world.add_secret(subject="/CN=device")

    def popo(request: bytes) -> bytes:
        return agree_popo(*dhbm(world, key, request))

    seen = await ask(world, key, popo, pvno=2, credential=secret)
    assert seen.status()[2] == {"badPOP"}
    assert "want pvno 3 for agreeMAC" in seen.status()[1]
    seen = await ask(world, key, popo, subject=b"", credential=secret)
    assert seen.status()[2] == {"badPOP"}
    assert "CertTemplate.subject" in seen.status()[1]


async def test_a_mac_does_for_no_key_that_signs_under_its_certificate() -> None:
    world, key = make("p256"), KEYS["p256"]()
    usage = (key_usage("digitalSignature", "keyAgreement"),)
    seen = await ask(world, key, lambda request: agree_popo(*dhbm(world, key, request)), extensions=usage)
    assert seen.status()[2] == {"badPOP"}
    secret = await world.add_secret("other")
    rsa = KEYS["rsa"]()
    for popo in (agree_popo(algorithm("sha256"), bytes(32), 2), signature_popo(algorithm("sha256"), bytes(32))):
        seen = await ask(world, rsa, lambda _, popo=popo: popo, credential=secret)
        assert seen.status()[2] == {"badPOP"}


@pytest.mark.parametrize("kind", ["p256", "x25519"])
async def test_algorithms_that_are_no_such_mac_are_refused(kind: str) -> None:
    world, key = make(kind), KEYS[kind]()
    secret = await world.add_secret()
    unknown = [
        der.seq(der.encode_oid("1.2.840.10045.4.3.2")),  # ecdsa-with-SHA256
        der.seq(der.encode_oid("1.2.840.113533.7.66.16"), der.seq()),  # KemBasedMac
        der.seq(der.encode_oid("1.3.6.1.5.5.7.6.26"), der.NULL_TLV),
        der.seq(der.encode_oid("1.3.6.1.5.5.7.6.16")),  # of finite fields
        pbm(world, key, b"", 100_000)[0],
    ]
    for identifier in unknown:
        seen = await ask(world, key, lambda _, one=identifier: agree_popo(one, bytes(32)), credential=secret)
        assert seen.status()[2] == {"badAlg"}


async def test_an_ecdh_identifier_is_for_ec_keys_alone() -> None:
    world, key = make("x25519"), KEYS["x25519"]()
    seen = await ask(
        world, key, lambda request: agree_popo(algorithm("sha256"), ecdh_pop(world, key, request, "sha256"))
    )
    assert seen.status()[2] == {"badAlg"}


async def test_a_server_that_takes_no_sha1_takes_no_dhmac() -> None:
    world, key = make("p256", policy=ProtectionPolicy(allow_sha1_mac=False)), KEYS["p256"]()
    seen = await ask(world, key, lambda request: dh_popo(ecdh_pop(world, key, request, "sha1")))
    assert seen.status()[2] == {"badAlg"}


@pytest.mark.parametrize(
    "popo",
    [
        der.explicit(3, der.tlv(0xA3, b"")),
        der.explicit(3, der.tlv(0xA3, der.seq())),
        der.explicit(3, der.tlv(0xA3, der.seq(der.encode_oid("1.2.3")))),
        der.explicit(3, der.tlv(0xA3, algorithm("sha256") + b"\x04\x01\x00")),
        der.explicit(3, der.tlv(0xA3, algorithm("sha256") + b"\x03\x02\x01\x00")),
        der.explicit(3, der.tlv(0xA3, algorithm("sha256") + der.encode_bits(bytes(32)) + der.NULL_TLV)),
        der.explicit(3, der.tlv(0x82, b"")),
        der.explicit(3, der.tlv(0x82, b"\x07\x80")),
    ],
    ids=range(8),
)
async def test_what_is_no_mac_is_baddataformat(popo: bytes) -> None:
    world, key = make("p256"), KEYS["p256"]()
    seen = await ask(world, key, lambda _: popo)
    assert seen.status()[2] == {"badDataFormat"}


async def test_what_is_proven_by_a_mac_is_so_after_an_operators_approval() -> None:
    world, key = make("x448", profiles={"default": ProfileConfig(approval=True)}), KEYS["x448"]()
    assert world.agreement is not None

    class Approving(Direct):
        async def request(self, der: bytes, *, last: bool = False) -> bytes | None:
            answer = await super().request(der)
            for waiting in await world.waiting():
                await world.approve(waiting.reference)
            return answer

    client = Client(Approving(world), await world.add_secret(), world.trust, world.env)
    agreement = Certificate.load(world.agreement.certificate)
    template = Template(key, encode_name("/CN=d"), (encrypting_usage("x448"),), agreement=agreement)
    [result] = await client.enrol_all("ir", [template])
    assert not isinstance(result, ClientError)
    assert result.certificate.public_key_info == spki(key)
