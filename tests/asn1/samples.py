"""One value of every PKIBody alternative and of every value that an OID selects; all made from RFC 9810 alone."""

import datetime
from functools import cache
from pathlib import Path
from typing import Any

from asn1crypto import cms, core, crl, x509
from cryptography import x509 as cx
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.asn1 import algs, cmp, crmf

VECTORS = Path(__file__).parents[1] / "vectors"
OPENSSL = sorted(VECTORS.glob("openssl/*-r??.der"))
BOUNCY_CASTLE = sorted(VECTORS.glob("bouncycastle/*.der"))
WHEN = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
PBM = "1.2.840.113533.7.66.13"


def frozen(cls: type[Any], value: Any) -> Any:
    """A value as one that was received: nesting it costs nothing then."""
    return cls.load((value if isinstance(value, cls) else cls(value)).dump())


def certificate() -> Any:
    return algs.Certificate.load((VECTORS / "openssl" / "ca.der").read_bytes())


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(0xC0FFEE, ec.SECP256R1())


def public_key() -> Any:
    return algs.SubjectPublicKeyInfo.load(
        _key().public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


@cache
def _crl() -> bytes:
    name = cx.Name([cx.NameAttribute(cx.NameOID.COMMON_NAME, "Vector CA")])
    revoked = cx.RevokedCertificateBuilder().serial_number(77).revocation_date(WHEN)
    revoked = revoked.add_extension(cx.CRLReason(cx.ReasonFlags.key_compromise), critical=False)
    builder = cx.CertificateRevocationListBuilder().issuer_name(name).last_update(WHEN).next_update(WHEN)
    builder = builder.add_revoked_certificate(revoked.build()).add_extension(cx.CRLNumber(5), critical=False)
    return builder.sign(_key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def certificate_list() -> Any:
    return crl.CertificateList.load(_crl())


@cache
def _csr() -> bytes:
    builder = cx.CertificateSigningRequestBuilder().subject_name(
        cx.Name([cx.NameAttribute(cx.NameOID.COMMON_NAME, "p10")])
    )
    builder = builder.add_extension(cx.SubjectAlternativeName([cx.DNSName("p10.example")]), critical=False)
    return builder.sign(_key(), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def name(text: str) -> Any:
    return x509.Name.build({"common_name": text})


def general_name(text: str) -> Any:
    return x509.GeneralName("directory_name", name(text))


def algorithm(oid: str, parameters: Any = None) -> Any:
    value = {"algorithm": oid} if parameters is None else {"algorithm": oid, "parameters": parameters}
    return frozen(algs.AlgorithmIdentifier, value)


def pbm() -> Any:
    return algorithm(
        "PasswordBasedMac",
        {
            "salt": b"salt" * 4,
            "owf": algorithm("sha256"),
            "iteration_count": 1000,
            "mac": algorithm("hmacWithSHA256", core.Null()),
        },
    )


def enveloped_data() -> Any:
    return frozen(
        cms.EnvelopedData,
        {
            "version": "v0",
            "recipient_infos": [
                cms.RecipientInfo(
                    "ktri",
                    {
                        "version": "v0",
                        "rid": cms.RecipientIdentifier(
                            "issuer_and_serial_number", {"issuer": name("Vector CA"), "serial_number": 7}
                        ),
                        "key_encryption_algorithm": {"algorithm": "rsaes_pkcs1v15"},
                        "encrypted_key": b"k" * 32,
                    },
                )
            ],
            "encrypted_content_info": {
                "content_type": "data",
                "content_encryption_algorithm": {"algorithm": "aes128_cbc", "parameters": b"i" * 16},
                "encrypted_content": b"c" * 16,
            },
        },
    )


def encrypted_value() -> Any:
    return frozen(
        crmf.EncryptedValue,
        {
            "intended_alg": algorithm("rsa", core.Null()),
            "symm_alg": algorithm("aes128_cbc"),
            "enc_symm_key": b"symm",
            "key_alg": algorithm("rsa", core.Null()),
            "value_hint": b"hint",
            "enc_value": b"value",
        },
    )


ENCRYPTED_KEYS = {
    "encrypted_value": lambda: crmf.EncryptedKey("encrypted_value", encrypted_value()),
    "enveloped_data": lambda: crmf.EncryptedKey("enveloped_data", enveloped_data()),
}


def cert_id() -> Any:
    return frozen(crmf.CertId, {"issuer": general_name("Vector CA"), "serial_number": 2**70})


def full_template() -> Any:
    return frozen(
        crmf.CertTemplate,
        {
            "version": "v3",
            "serial_number": -5,
            "signing_alg": algorithm("sha256_ecdsa"),
            "issuer": name("Vector CA"),
            "validity": {
                "not_before": x509.Time("utc_time", WHEN),
                "not_after": x509.Time("general_time", WHEN.replace(year=2055)),
            },
            "subject": name("subject"),
            "public_key": public_key().copy(),
            "issuer_uid": b"iuid",
            "subject_uid": b"suid",
            "extensions": [{"extn_id": "key_usage", "critical": True, "extn_value": {"digital_signature"}}],
        },
    )


def publication_info() -> Any:
    return frozen(
        crmf.PKIPublicationInfo,
        {
            "action": "pleasePublish",
            "pub_infos": [
                {"pub_method": "web", "pub_location": x509.GeneralName("uniform_resource_identifier", "http://a/b")},
                {"pub_method": "dontCare"},
            ],
        },
    )


def cert_request(number: int = 0, controls: list[Any] | None = None) -> Any:
    value = {"cert_req_id": number, "cert_template": full_template()}
    return frozen(crmf.CertRequest, value | ({"controls": controls} if controls else {}))


def private_key_info() -> Any:
    return {"version": 0, "private_key_algorithm": algorithm("ed25519"), "private_key": b"\x04\x02ab"}


CONTROLS = {
    "regToken": lambda: "tokén",
    "authenticator": lambda: "mother's name",
    "pkiPublicationInfo": publication_info,
    "pkiArchiveOptions": lambda: crmf.PKIArchiveOptions("archive_rem_gen_priv_key", True),
    "oldCertID": cert_id,
    "protocolEncrKey": public_key,
    "altCertTemplate": lambda: frozen(crmf.AttributeTypeAndValue, {"type": "regToken", "value": "inner"}),
    "algId": lambda: algorithm("ec", core.ObjectIdentifier("1.2.840.10045.3.1.7").copy()),
    "rsaKeyLen": lambda: 3072,
    "utf8Pairs": lambda: "a?b%c?d%",
    "certReq": lambda: cert_request(9),
}


def control(kind: str) -> Any:
    if kind == "algId":
        return frozen(crmf.AttributeTypeAndValue, {"type": kind, "value": algorithm("ed25519")})
    return frozen(crmf.AttributeTypeAndValue, {"type": kind, "value": CONTROLS[kind]()})


def signing_key(**more: Any) -> Any:
    value = {"algorithm_identifier": algorithm("sha256_ecdsa"), "signature": b"signature"}
    return crmf.ProofOfPossession("signature", frozen(crmf.POPOSigningKey, value | more))


def pkmac() -> Any:
    return frozen(crmf.PKMACValue, {"alg_id": pbm(), "value": b"m" * 32})


def signing_key_input(kind: str) -> Any:
    value = general_name("sender") if kind == "sender" else pkmac()
    return frozen(crmf.POPOSigningKeyInput, {"auth_info": crmf.AuthInfo(kind, value), "public_key": public_key()})


def _private(alternative: str, kind: str, value: Any) -> Any:
    return crmf.ProofOfPossession(alternative, crmf.POPOPrivKey(kind, value))


PROOFS = {
    "raVerified": lambda: crmf.ProofOfPossession("ra_verified", core.Null()),
    "signature": signing_key,
    "signature over sender": lambda: signing_key(poposk_input=signing_key_input("sender")),
    "signature over publicKeyMAC": lambda: signing_key(poposk_input=signing_key_input("public_key_mac")),
    "keyEncipherment thisMessage": lambda: _private("key_encipherment", "this_message", b"key"),
    "keyEncipherment encrCert": lambda: _private("key_encipherment", "subsequent_message", "encrCert"),
    "keyEncipherment encryptedKey": lambda: _private("key_encipherment", "encrypted_key", enveloped_data()),
    "keyAgreement challengeResp": lambda: _private("key_agreement", "subsequent_message", "challengeResp"),
    "keyAgreement dhMAC": lambda: _private("key_agreement", "dh_mac", b"mac"),
    "keyAgreement agreeMAC": lambda: _private("key_agreement", "agree_mac", pkmac()),
}


def cert_req_messages() -> Any:
    return frozen(
        crmf.CertReqMessages,
        [
            {"cert_req": cert_request(0, [control("regToken"), control("oldCertID")]), "popo": PROOFS["signature"]()},
            {"cert_req": cert_request(1), "reg_info": [control("utf8Pairs")]},
        ],
    )


def status(**more: Any) -> Any:
    return {"status": "rejection", "status_string": ["no", "nein, weil ä"], "fail_info": {"badPOP", "badAlg"}} | more


def cert_rep_message() -> Any:
    pair = {
        "cert_or_enc_cert": cmp.CertOrEncCert("certificate", certificate()),
        "private_key": ENCRYPTED_KEYS["enveloped_data"](),
        "publication_info": publication_info(),
    }
    encrypted = {"cert_or_enc_cert": cmp.CertOrEncCert("encrypted_cert", ENCRYPTED_KEYS["encrypted_value"]())}
    return frozen(
        cmp.CertRepMessage,
        {
            "ca_pubs": [certificate(), certificate()],
            "response": [
                {"cert_req_id": 0, "status": {"status": "accepted"}, "certified_key_pair": pair, "rsp_info": b"x?y%"},
                {"cert_req_id": -1, "status": status()},
                {"cert_req_id": 2, "status": {"status": "grantedWithMods"}, "certified_key_pair": encrypted},
            ],
        },
    )


INFOS = {
    "caProtEncCert": certificate,
    "signKeyPairTypes": lambda: [algorithm("ed25519"), algorithm("rsa", core.Null())],
    "encKeyPairTypes": lambda: [algorithm("x25519")],
    "preferredSymmAlg": lambda: algorithm("aes256_cbc"),
    "caKeyUpdateInfo": lambda: ca_key_upd_ann(),
    "currentCRL": certificate_list,
    "unsupportedOIDs": lambda: ["1.2.3", "2.999.1"],
    "keyPairParamReq": lambda: "1.2.840.10045.2.1",
    "keyPairParamRep": lambda: algorithm("x448"),
    "revPassphrase": ENCRYPTED_KEYS["enveloped_data"],
    "implicitConfirm": core.Null,
    "confirmWaitTime": lambda: WHEN,
    "origPKIMessage": lambda: frozen(cmp.PKIMessages, [message("pkiconf")]),
    "suppLangTags": lambda: ["en", "de"],
    "caCerts": lambda: [certificate()],
    "rootCaKeyUpdate": lambda: root_ca_key_update(),
    "certReqTemplate": lambda: {"cert_template": {"subject": name("t")}, "key_spec": [control("rsaKeyLen")]},
    "rootCaCert": certificate,
    "certProfile": lambda: ["tls-server", "tls-client"],
    "crlStatusList": lambda: crl_status_list(),
    "crls": lambda: [certificate_list()],
    "KemCiphertextInfo": lambda: {"kem": algorithm("2.16.840.1.101.3.4.4.2"), "ct": b"c" * 100},
}


def info(kind: str) -> Any:
    return frozen(cmp.InfoTypeAndValue, {"info_type": kind, "info_value": INFOS[kind]()})


def ca_key_upd_ann() -> Any:
    fields = ("old_with_new", "new_with_old", "new_with_new")
    return frozen(cmp.CAKeyUpdAnnContent, {field: certificate() for field in fields})


def root_ca_key_update() -> Any:
    fields = ("old_with_new", "new_with_old", "new_with_new")
    return frozen(cmp.RootCaKeyUpdateContent, {field: certificate() for field in fields})


def crl_status_list() -> Any:
    full = x509.DistributionPointName(
        "full_name", [x509.GeneralName("uniform_resource_identifier", "http://a.example/crl")]
    )
    return frozen(
        cmp.CRLStatusList,
        [
            {"source": cmp.CRLSource("dpn", full), "this_update": x509.Time("utc_time", WHEN)},
            {"source": cmp.CRLSource("issuer", [general_name("Vector CA")])},
        ],
    )


def rev_details() -> list[Any]:
    reason = {"extn_id": "crl_reason", "critical": False, "extn_value": "key_compromise"}
    template = {"issuer": name("Vector CA"), "serial_number": 77}
    return [{"cert_details": template, "crl_entry_details": [reason]}, {"cert_details": {"serial_number": 1}}]


def _general_messages() -> list[Any]:
    return [
        *(info(kind) for kind in INFOS),
        {"info_type": "1.2.3.4", "info_value": core.Integer(5)},
        {"info_type": "caCerts"},
    ]


BODIES = {
    "ir": cert_req_messages,
    "ip": cert_rep_message,
    "cr": cert_req_messages,
    "cp": cert_rep_message,
    "p10cr": lambda: algs.CertificationRequest.load(_csr()),
    "popdecc": lambda: [
        {"owf": algorithm("sha256"), "witness": b"w" * 32, "challenge": b"c" * 64},
        {"witness": b"", "challenge": b"", "encrypted_rand": enveloped_data()},
    ],
    "popdecr": lambda: [0, -1, 2**200],
    "kur": cert_req_messages,
    "kup": cert_rep_message,
    "krr": cert_req_messages,
    "krp": lambda: {
        "status": {"status": "accepted"},
        "new_sig_cert": certificate(),
        "ca_certs": [certificate()],
        "key_pair_hist": [{"cert_or_enc_cert": cmp.CertOrEncCert("certificate", certificate())}],
    },
    "rr": rev_details,
    "rp": lambda: {
        "status": [{"status": "accepted"}, status()],
        "rev_certs": [cert_id()],
        "crls": [certificate_list()],
    },
    "ccr": cert_req_messages,
    "ccp": cert_rep_message,
    "ckuann": lambda: cmp.CAKeyUpdContent("ca_key_upd_ann_v3", root_ca_key_update()),
    "cann": certificate,
    "rann": lambda: {
        "status": "revocationWarning",
        "cert_id": cert_id(),
        "will_be_revoked_at": WHEN,
        "bad_since_date": WHEN,
        "crl_details": [{"extn_id": "crl_reason", "critical": True, "extn_value": "superseded"}],
    },
    "crlann": lambda: [certificate_list()],
    "pkiconf": core.Null,
    "nested": lambda: frozen(cmp.PKIMessages, [message("ir"), message("cert_conf")]),
    "genm": _general_messages,
    "genp": _general_messages,
    "error": lambda: {"pki_status_info": status(), "error_code": 42, "error_details": ["see log"]},
    "cert_conf": lambda: [
        {"cert_hash": b"h" * 32, "cert_req_id": 0},
        {"cert_hash": b"h" * 64, "cert_req_id": -1, "status_info": status(), "hash_alg": algorithm("sha512")},
    ],
    "poll_req": lambda: [{"cert_req_id": 0}, {"cert_req_id": -1}],
    "poll_rep": lambda: [
        {"cert_req_id": 0, "check_after": 60, "reason": ["busy"]},
        {"cert_req_id": 1, "check_after": 5},
    ],
}


def header() -> Any:
    return frozen(
        cmp.PKIHeader,
        {
            "pvno": "cmp2021",
            "sender": general_name("sender"),
            "recipient": x509.GeneralName("directory_name", x509.Name.build({})),
            "message_time": WHEN,
            "protection_alg": pbm(),
            "sender_kid": b"reference",
            "recip_kid": b"recipient",
            "transaction_id": b"t" * 16,
            "sender_nonce": b"s" * 16,
            "recip_nonce": b"r" * 16,
            "free_text": ["hello"],
            "general_info": [info("implicitConfirm"), info("certProfile")],
        },
    )


def body(kind: str) -> Any:
    spec = {row[0]: row[1] for row in cmp.PKIBody._alternatives}[kind]
    return frozen(cmp.PKIBody, cmp.PKIBody(kind, frozen(spec, BODIES[kind]())))


def message(kind: str) -> Any:
    return frozen(
        cmp.PKIMessage,
        {"header": header(), "body": body(kind), "protection": b"p" * 32, "extra_certs": [certificate()]},
    )
