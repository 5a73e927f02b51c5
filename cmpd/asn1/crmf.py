# mypy: disallow-subclassing-any=False
# ruff: noqa: RUF012
# (asn1crypto has no types, and completes the lists and maps of a class in place when it is first used.)
"""Certificate Request Message Format: the types of RFC 4211 appendix B, and the controls that RFC 9810 adds.

Classes have the RFC's names, fields are its names in snake_case, enumerations are spelt as there. The module has
IMPLICIT TAGS, but a tagged CHOICE is explicit even so (X.680, tagged types): Name, Time, GeneralName, POPOPrivKey
and EncryptedKey carry "explicit" below for that reason and no other.

An OID that is not in a map keeps its dotted form, and its value stays `Any`.
"""

from asn1crypto import core, keys, x509
from asn1crypto.cms import EnvelopedData

from .algs import AlgorithmIdentifier, NonEmptySequenceOf, PBMParameter, SubjectPublicKeyInfo

__all__ = [
    "AltCertTemplate",
    "AttributeTypeAndValue",
    "CertId",
    "CertReq",
    "CertReqMessages",
    "CertReqMsg",
    "CertRequest",
    "CertTemplate",
    "Controls",
    "EncKeyWithID",
    "EncryptedKey",
    "EncryptedValue",
    "EnvelopedData",
    "OptionalValidity",
    "PBMParameter",
    "PKIArchiveOptions",
    "PKIPublicationInfo",
    "PKMACValue",
    "POPOPrivKey",
    "POPOSigningKey",
    "POPOSigningKeyInput",
    "ProofOfPossession",
    "SinglePubInfo",
    "SubsequentMessage",
]

ID_CT_ENC_KEY_WITH_ID = "1.2.840.113549.1.9.16.1.21"
"""Content type of an EncKeyWithID inside CMS (RFC 4211 section 4.2.1)."""


# --- CertTemplate (section 5) ----------------------------------------------------------------------------------------


class OptionalValidity(core.Sequence):
    """OptionalValidity; RFC 4211 wants at least one of the two."""

    _fields = [
        ("not_before", x509.Time, {"explicit": 0, "optional": True}),  # Time is a CHOICE
        ("not_after", x509.Time, {"explicit": 1, "optional": True}),
    ]


class CertTemplate(core.Sequence):
    """CertTemplate."""

    _fields = [
        ("version", x509.Version, {"implicit": 0, "optional": True}),
        ("serial_number", core.Integer, {"implicit": 1, "optional": True}),
        ("signing_alg", AlgorithmIdentifier, {"implicit": 2, "optional": True}),
        ("issuer", x509.Name, {"explicit": 3, "optional": True}),  # Name is a CHOICE
        ("validity", OptionalValidity, {"implicit": 4, "optional": True}),
        ("subject", x509.Name, {"explicit": 5, "optional": True}),  # Name is a CHOICE
        ("public_key", SubjectPublicKeyInfo, {"implicit": 6, "optional": True}),
        ("issuer_uid", core.OctetBitString, {"implicit": 7, "optional": True}),
        ("subject_uid", core.OctetBitString, {"implicit": 8, "optional": True}),
        ("extensions", x509.Extensions, {"implicit": 9, "optional": True}),
    ]


class CertId(core.Sequence):
    """CertId (section 6.5)."""

    _fields = [("issuer", x509.GeneralName), ("serial_number", core.Integer)]


# --- encrypted values (section 2.1, 6.4) -----------------------------------------------------------------------------


class EncryptedValue(core.Sequence):
    """EncryptedValue; deprecated in favour of EnvelopedData."""

    _fields = [
        ("intended_alg", AlgorithmIdentifier, {"implicit": 0, "optional": True}),
        ("symm_alg", AlgorithmIdentifier, {"implicit": 1, "optional": True}),
        ("enc_symm_key", core.OctetBitString, {"implicit": 2, "optional": True}),
        ("key_alg", AlgorithmIdentifier, {"implicit": 3, "optional": True}),
        ("value_hint", core.OctetString, {"implicit": 4, "optional": True}),
        ("enc_value", core.OctetBitString),
    ]


class EncryptedKey(core.Choice):
    """EncryptedKey."""

    _alternatives = [("encrypted_value", EncryptedValue), ("enveloped_data", EnvelopedData, {"implicit": 0})]


class PrivateKeyInfo(core.Sequence):
    """PrivateKeyInfo; the key itself stays octets, whatever its algorithm."""

    _fields = [
        ("version", core.Integer),
        ("private_key_algorithm", AlgorithmIdentifier),
        ("private_key", core.OctetString),
        ("attributes", keys.Attributes, {"implicit": 0, "optional": True}),
    ]


class EncKeyIdentifier(x509.GeneralName):
    """The identifier of EncKeyWithID: CHOICE { string UTF8String, generalName GeneralName }.

    asn1crypto does not look into an untagged CHOICE inside a CHOICE, so GeneralName's alternatives stand side by side
    with `string`; the octets are the same.
    """

    _alternatives = [("string", core.UTF8String), *x509.GeneralName._alternatives]


class EncKeyWithID(core.Sequence):
    """EncKeyWithID (section 4.2.1)."""

    _fields = [("private_key", PrivateKeyInfo), ("identifier", EncKeyIdentifier, {"optional": True})]


# --- proof of possession (section 4) ---------------------------------------------------------------------------------


class PKMACValue(core.Sequence):
    """PKMACValue; `value` is computed with PasswordBasedMac."""

    _fields = [("alg_id", AlgorithmIdentifier), ("value", core.OctetBitString)]


class AuthInfo(core.Choice):
    """The authInfo of POPOSigningKeyInput."""

    _alternatives = [
        ("sender", x509.GeneralName, {"explicit": 0}),  # GeneralName is a CHOICE
        ("public_key_mac", PKMACValue),
    ]


class POPOSigningKeyInput(core.Sequence):
    """POPOSigningKeyInput."""

    _fields = [("auth_info", AuthInfo), ("public_key", SubjectPublicKeyInfo)]


class POPOSigningKey(core.Sequence):
    """POPOSigningKey (section 4.1).

    The signature is over the DER of `poposk_input` as a SEQUENCE, not with the implicit tag that it has in here.
    """

    _fields = [
        ("poposk_input", POPOSigningKeyInput, {"implicit": 0, "optional": True}),
        ("algorithm_identifier", AlgorithmIdentifier),
        ("signature", core.OctetBitString),
    ]


class SubsequentMessage(core.Integer):
    """SubsequentMessage (section 4.2)."""

    _map = {0: "encrCert", 1: "challengeResp"}


class POPOPrivKey(core.Choice):
    """POPOPrivKey (sections 4.2 and 4.3)."""

    _alternatives = [
        ("this_message", core.OctetBitString, {"implicit": 0}),
        ("subsequent_message", SubsequentMessage, {"implicit": 1}),
        ("dh_mac", core.OctetBitString, {"implicit": 2}),
        ("agree_mac", PKMACValue, {"implicit": 3}),
        ("encrypted_key", EnvelopedData, {"implicit": 4}),
    ]


class ProofOfPossession(core.Choice):
    """ProofOfPossession."""

    _alternatives = [
        ("ra_verified", core.Null, {"implicit": 0}),
        ("signature", POPOSigningKey, {"implicit": 1}),
        ("key_encipherment", POPOPrivKey, {"explicit": 2}),  # POPOPrivKey is a CHOICE
        ("key_agreement", POPOPrivKey, {"explicit": 3}),
    ]


# --- controls and registration information (sections 6 and 7, RFC 9810 section 5.3.19.16) ----------------------------


class PublicationAction(core.Integer):
    """The action of PKIPublicationInfo."""

    _map = {0: "dontPublish", 1: "pleasePublish"}


class PubMethod(core.Integer):
    """The pubMethod of SinglePubInfo."""

    _map = {0: "dontCare", 1: "x500", 2: "web", 3: "ldap"}


class SinglePubInfo(core.Sequence):
    """SinglePubInfo."""

    _fields = [("pub_method", PubMethod), ("pub_location", x509.GeneralName, {"optional": True})]


class SinglePubInfos(NonEmptySequenceOf):
    """The pubInfos of PKIPublicationInfo."""

    _child_spec = SinglePubInfo


class PKIPublicationInfo(core.Sequence):
    """PKIPublicationInfo (section 6.3)."""

    _fields = [("action", PublicationAction), ("pub_infos", SinglePubInfos, {"optional": True})]


class PKIArchiveOptions(core.Choice):
    """PKIArchiveOptions (section 6.4)."""

    _alternatives = [
        ("encrypted_priv_key", EncryptedKey, {"explicit": 0}),  # EncryptedKey is a CHOICE
        ("key_gen_parameters", core.OctetString, {"implicit": 1}),
        ("archive_rem_gen_priv_key", core.Boolean, {"implicit": 2}),
    ]


class AttributeType(core.ObjectIdentifier):
    """The types of controls (id-regCtrl) and of registration information (id-regInfo)."""

    _map = {
        "1.3.6.1.5.5.7.5.1.1": "regToken",
        "1.3.6.1.5.5.7.5.1.2": "authenticator",
        "1.3.6.1.5.5.7.5.1.3": "pkiPublicationInfo",
        "1.3.6.1.5.5.7.5.1.4": "pkiArchiveOptions",
        "1.3.6.1.5.5.7.5.1.5": "oldCertID",
        "1.3.6.1.5.5.7.5.1.6": "protocolEncrKey",
        "1.3.6.1.5.5.7.5.1.7": "altCertTemplate",
        "1.3.6.1.5.5.7.5.1.11": "algId",
        "1.3.6.1.5.5.7.5.1.12": "rsaKeyLen",
        "1.3.6.1.5.5.7.5.2.1": "utf8Pairs",
        "1.3.6.1.5.5.7.5.2.2": "certReq",
    }


class AttributeTypeAndValue(core.Sequence):
    """AttributeTypeAndValue of CRMF (not that of a Name)."""

    _fields = [("type", AttributeType), ("value", core.Any)]
    _oid_pair = ("type", "value")
    _oid_specs = {
        "regToken": core.UTF8String,
        "authenticator": core.UTF8String,
        "pkiPublicationInfo": PKIPublicationInfo,
        "pkiArchiveOptions": PKIArchiveOptions,
        "oldCertID": CertId,
        "protocolEncrKey": SubjectPublicKeyInfo,
        "algId": AlgorithmIdentifier,
        "rsaKeyLen": core.Integer,
        "utf8Pairs": core.UTF8String,
    }


AltCertTemplate = AttributeTypeAndValue
AttributeTypeAndValue._oid_specs["altCertTemplate"] = AltCertTemplate


class Controls(NonEmptySequenceOf):
    """Controls (section 6)."""

    _child_spec = AttributeTypeAndValue


class RegInfo(NonEmptySequenceOf):
    """The regInfo of CertReqMsg (section 7)."""

    _child_spec = AttributeTypeAndValue


# --- the messages (sections 3 to 5) ----------------------------------------------------------------------------------


class CertRequest(core.Sequence):
    """CertRequest."""

    _fields = [
        ("cert_req_id", core.Integer),
        ("cert_template", CertTemplate),
        ("controls", Controls, {"optional": True}),
    ]


CertReq = CertRequest
AttributeTypeAndValue._oid_specs["certReq"] = CertReq


class CertReqMsg(core.Sequence):
    """CertReqMsg."""

    _fields = [
        ("cert_req", CertRequest),
        ("popo", ProofOfPossession, {"optional": True}),
        ("reg_info", RegInfo, {"optional": True}),
    ]


class CertReqMessages(NonEmptySequenceOf):
    """CertReqMessages."""

    _child_spec = CertReqMsg
