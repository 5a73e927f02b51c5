"""A profile and a CA put to work without a server: what they make of a wish, and two linters to judge it."""

from collections.abc import Coroutine
from functools import cache
from typing import Any

from pkilint import loader, validation
from pkilint.bin import lint_pkix_signer_signee_cert_chain as chain_linter
from pkilint.pkix import certificate as pkix
from pkilint.pkix import extension as pkix_extension
from pkilint.pkix import name as pkix_name

from cmpd.asn1 import der
from cmpd.asn1.names import encode_name
from cmpd.bootstrap import root_certificate
from cmpd.ca import CertificateAuthority
from cmpd.config import ProfileConfig
from cmpd.env import Env
from cmpd.private_keys import ENCRYPTION_KEY_TYPES, KEY_TYPES
from cmpd.profiles import Grant, Issuer, Profile, load_public_key
from cmpd.requests import Extension, Template
from cmpd.signing.file import FileKey, public_key_info

NOW = 1_790_000_000
"""A day in September 2026."""
DAY = 86_400
CA_NAME = "/C=DE/O=Exämple/CN=Test CA"


@cache
def private_key(kind: str, number: int = 0) -> Any:
    return (KEY_TYPES | ENCRYPTION_KEY_TYPES)[kind]()


def public_key(kind: str) -> bytes:
    """DER of the SubjectPublicKeyInfo of the one key of this kind."""
    return public_key_info(private_key(kind))


def counting_env(now: float = NOW) -> Env:
    """A clock that stands still, and a counter for random octets."""
    numbers = iter(range(1, 1 << 20))
    return Env(now=lambda: now, random=lambda count: next(numbers).to_bytes(count, "big"))


@cache
def authority(kind: str, now: float = NOW) -> CertificateAuthority:
    key, env = private_key(kind, 1), counting_env(now)
    return CertificateAuthority(root_certificate(key, encode_name(CA_NAME), env), (), FileKey(key), env)


def extension(oid: str, value: bytes, *, critical: bool = False) -> Extension:
    return Extension(der.encode_oid(oid)[2:], critical, value)


def key_usage(*bits: int, critical: bool = True) -> Extension:
    return extension("2.5.29.15", der.encode_named_bits(*bits), critical=critical)


def purposes(*oids: str, critical: bool = False) -> Extension:
    return extension("2.5.29.37", der.seq(*map(der.encode_oid, oids)), critical=critical)


NAME_TAGS = {"email": 0x81, "dns": 0x82, "uri": 0x86, "ip": 0x87}


def san(*names: tuple[str, bytes | str], critical: bool = False) -> Extension:
    """SubjectAltName of (kind, contents); for "dn" the text of a name."""
    parts = []
    for kind, contents in names:
        if kind == "dn":
            parts.append(der.explicit(4, encode_name(contents) if isinstance(contents, str) else contents))
        else:
            parts.append(der.tlv(NAME_TAGS[kind], contents.encode() if isinstance(contents, str) else contents))
    return extension("2.5.29.17", der.seq(*parts), critical=critical)


def wish(
    rules: ProfileConfig | None = None,
    subject: str | bytes = "/CN=device",
    key: str | bytes = "p256",
    extensions: tuple[Extension, ...] = (),
    *,
    now: int = NOW,
    issuer: Issuer | None = None,
    **fields: Any,
) -> Grant:
    """What the profile "test" with these rules grants; raises BadCertTemplate."""
    info = public_key(key) if isinstance(key, str) else key
    name = encode_name(subject) if isinstance(subject, str) else subject
    template = Template(subject=name, public_key=info, extensions=extensions, **fields)
    profile, made = Profile("test", rules or ProfileConfig()), load_public_key(info)
    return profile.grant(template, made, name, extensions, now, issuer=issuer or authority("p256").issuer)


def finish(coroutine: Coroutine[Any, Any, bytes]) -> bytes:
    """The result of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return bytes(done.value)
    raise AssertionError("it suspended")


def policies(*oids: str, critical: bool = False) -> Extension:
    """CertificatePolicies without qualifiers."""
    return extension("2.5.29.32", der.seq(*(der.seq(der.encode_oid(oid)) for oid in oids)), critical=critical)


def basic_constraints(path_length: int | None = None, *, critical: bool = True) -> Extension:
    """BasicConstraints of a CA."""
    length = b"" if path_length is None else der.encode_integer(path_length)
    return extension("2.5.29.19", der.seq(der.encode_boolean(True), length), critical=critical)


def issue(ca: CertificateAuthority, grant: Grant) -> bytes:
    """DER of the certificate."""
    intent = ca.prepare(grant, transaction_id=b"t" * 16, cert_req_id=0, entity_id=1, replaces=None)
    return finish(ca.sign(intent))


# --- linters ----------------------------------------------------------------------------------------------------------

_LOADER = loader.RFC5280CertificateDocumentLoader()


@cache
def _linter() -> Any:
    return pkix.create_pkix_certificate_validator_container(
        pkix.create_decoding_validators(pkix_name.ATTRIBUTE_TYPE_MAPPINGS, pkix_extension.EXTENSION_MAPPINGS),
        [
            pkix.create_issuer_validator_container([]),
            pkix.create_validity_validator_container(),
            pkix.create_subject_validator_container([]),
            pkix.create_extensions_validator_container([]),
            pkix.create_spki_validator_container([]),
        ],
    )


@cache
def _chain_linters() -> tuple[Any, Any, Any]:
    return (
        chain_linter.create_decoder_validation_container(),
        chain_linter.create_issuer_validation_container(),
        chain_linter.create_subject_validation_container(),
    )


def _codes(results: Any) -> set[str]:
    return {
        found.finding.code
        for result in results
        for found in result.finding_descriptions
        if found.finding.severity <= validation.ValidationFindingSeverity.NOTICE
    }


def lint(certificate: bytes) -> set[str]:
    """The codes of what pkilint's lint_pkix_cert finds at NOTICE or above."""
    return _codes(_linter().validate(_LOADER.load_der_document(certificate, "certificate", None).root))


def lint_chain(issuer: bytes, certificate: bytes) -> set[str]:
    """The codes of what pkilint's lint_pkix_signer_signee_cert_chain finds at NOTICE or above."""
    documents: dict[str, Any] = {}
    for name, octets in (("issuer", issuer), ("subject", certificate)):
        documents[name] = _LOADER.load_der_document(octets, name, name, documents)
    decode, judge_issuer, judge_subject = _chain_linters()
    results = decode.validate(documents["issuer"].root) + decode.validate(documents["subject"].root)
    results += judge_issuer.validate(documents["issuer"].root)
    return _codes(results + judge_subject.validate(documents["subject"].root))
