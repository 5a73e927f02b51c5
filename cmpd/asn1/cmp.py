# mypy: disallow-subclassing-any=False
# ruff: noqa: RUF012
# (asn1crypto has no types, and completes the lists and maps of a class in place when it is first used.)
"""Certificate Management Protocol: the types of RFC 9810 appendix F.

Classes have the RFC's names, fields are its names in snake_case, enumerations are spelt as there. The module has
EXPLICIT TAGS throughout, other than CRMF. Values are lazy: load hostile octets through `strict.load_strict` alone.
asn1crypto takes time exponential in the depth to encode what was built from Python objects, so a finished message is
made octets and loaded again before it goes into NestedMessageContent or origPKIMessage.
"""

from asn1crypto import core, x509
from asn1crypto.cms import EnvelopedData
from asn1crypto.crl import CertificateList, CRLEntryExtensions

from .algs import (
    AlgorithmIdentifier,
    Certificate,
    CertificationRequest,
    DHBMParameter,
    KemBMParameter,
    NonEmptySequenceOf,
    PBMParameter,
)
from .crmf import CertId, CertReqMessages, CertTemplate, Controls, EncryptedKey, PKIPublicationInfo

__all__ = [
    "CAKeyUpdAnnContent",
    "CAKeyUpdContent",
    "CMPCertificate",
    "CRLAnnContent",
    "CRLSource",
    "CRLStatus",
    "CertAnnContent",
    "CertConfirmContent",
    "CertOrEncCert",
    "CertRepMessage",
    "CertReqTemplateContent",
    "CertResponse",
    "CertStatus",
    "CertifiedKeyPair",
    "Challenge",
    "DHBMParameter",
    "ErrorMsgContent",
    "GenMsgContent",
    "GenRepContent",
    "InfoTypeAndValue",
    "KemBMParameter",
    "KemCiphertextInfo",
    "KemOtherInfo",
    "KeyRecRepContent",
    "NestedMessageContent",
    "OOBCert",
    "OOBCertHash",
    "PBMParameter",
    "PKIBody",
    "PKIConfirmContent",
    "PKIFailureInfo",
    "PKIFreeText",
    "PKIHeader",
    "PKIMessage",
    "PKIMessages",
    "PKIProtection",
    "PKIStatus",
    "PKIStatusInfo",
    "POPODecKeyChallContent",
    "POPODecKeyRespContent",
    "PollRepContent",
    "PollReqContent",
    "ProtectedPart",
    "Rand",
    "RevAnnContent",
    "RevDetails",
    "RevRepContent",
    "RevReqContent",
    "RootCaKeyUpdateContent",
]

ID_KP_CMC_CA = "1.3.6.1.5.5.7.3.27"
ID_KP_CMC_RA = "1.3.6.1.5.5.7.3.28"
ID_KP_CM_KGA = "1.3.6.1.5.5.7.3.32"
"""Extended key usages of entities that speak CMP (RFC 9810 section 4.5)."""


# --- certificates, status (sections 5.1.1, 5.2.3) --------------------------------------------------------------------

# The RFC's CHOICE of one untagged alternative; it allows this reading itself, and the octets are the same.
CMPCertificate = Certificate
OOBCert = CMPCertificate
CertAnnContent = CMPCertificate
PKIConfirmContent = core.Null
PKIProtection = core.OctetBitString  # MACs and signatures are whole octets


class CMPCertificates(NonEmptySequenceOf):
    """SEQUENCE SIZE (1..MAX) OF CMPCertificate: extraCerts, caPubs, id-it-caCerts."""

    _child_spec = CMPCertificate


class CertificateLists(NonEmptySequenceOf):
    """SEQUENCE SIZE (1..MAX) OF CertificateList."""

    _child_spec = CertificateList


class PKIFreeText(NonEmptySequenceOf):
    """PKIFreeText."""

    _child_spec = core.UTF8String


class PKIStatus(core.Integer):
    """PKIStatus."""

    _map = {
        0: "accepted",
        1: "grantedWithMods",
        2: "rejection",
        3: "waiting",
        4: "revocationWarning",
        5: "revocationNotification",
        6: "keyUpdateWarning",
    }


class PKIFailureInfo(core.BitString):
    """PKIFailureInfo; `.native` is a set of names, and of numbers where a bit has none."""

    _map = {
        0: "badAlg",
        1: "badMessageCheck",
        2: "badRequest",
        3: "badTime",
        4: "badCertId",
        5: "badDataFormat",
        6: "wrongAuthority",
        7: "incorrectData",
        8: "missingTimeStamp",
        9: "badPOP",
        10: "certRevoked",
        11: "certConfirmed",
        12: "wrongIntegrity",
        13: "badRecipientNonce",
        14: "timeNotAvailable",
        15: "unacceptedPolicy",
        16: "unacceptedExtension",
        17: "addInfoNotAvailable",
        18: "badSenderNonce",
        19: "badCertTemplate",
        20: "signerNotTrusted",
        21: "transactionIdInUse",
        22: "unsupportedVersion",
        23: "notAuthorized",
        24: "systemUnavail",
        25: "systemFailure",
        26: "duplicateCertReq",
    }


class PKIStatusInfo(core.Sequence):
    """PKIStatusInfo."""

    _fields = [
        ("status", PKIStatus),
        ("status_string", PKIFreeText, {"optional": True}),
        ("fail_info", PKIFailureInfo, {"optional": True}),
    ]


class OOBCertHash(core.Sequence):
    """OOBCertHash (section 5.2.5)."""

    _fields = [
        ("hash_alg", AlgorithmIdentifier, {"explicit": 0, "optional": True}),
        ("cert_id", CertId, {"explicit": 1, "optional": True}),
        ("hash_val", core.OctetBitString),
    ]


# --- proof of possession by challenge (section 5.2.8.3) --------------------------------------------------------------


class Challenge(core.Sequence):
    """Challenge."""

    _fields = [
        ("owf", AlgorithmIdentifier, {"optional": True}),
        ("witness", core.OctetString),
        ("challenge", core.OctetString),
        ("encrypted_rand", EnvelopedData, {"explicit": 0, "optional": True}),
    ]


class Rand(core.Sequence):
    """Rand: what a Challenge encrypts."""

    _fields = [("int", core.Integer), ("sender", x509.GeneralName)]


class POPODecKeyChallContent(core.SequenceOf):
    """POPODecKeyChallContent."""

    _child_spec = Challenge


class POPODecKeyRespContent(core.SequenceOf):
    """POPODecKeyRespContent."""

    _child_spec = core.Integer


# --- answers to certificate requests (sections 5.3.4, 5.3.8) ---------------------------------------------------------


class CertOrEncCert(core.Choice):
    """CertOrEncCert."""

    _alternatives = [
        ("certificate", CMPCertificate, {"explicit": 0}),
        ("encrypted_cert", EncryptedKey, {"explicit": 1}),
    ]


class CertifiedKeyPair(core.Sequence):
    """CertifiedKeyPair."""

    _fields = [
        ("cert_or_enc_cert", CertOrEncCert),
        ("private_key", EncryptedKey, {"explicit": 0, "optional": True}),
        ("publication_info", PKIPublicationInfo, {"explicit": 1, "optional": True}),
    ]


class CertifiedKeyPairs(NonEmptySequenceOf):
    """The keyPairHist of KeyRecRepContent."""

    _child_spec = CertifiedKeyPair


class CertResponse(core.Sequence):
    """CertResponse; `cert_req_id` is -1 in the answer to a p10cr."""

    _fields = [
        ("cert_req_id", core.Integer),
        ("status", PKIStatusInfo),
        ("certified_key_pair", CertifiedKeyPair, {"optional": True}),
        ("rsp_info", core.OctetString, {"optional": True}),
    ]


class CertResponses(core.SequenceOf):
    """The response of CertRepMessage."""

    _child_spec = CertResponse


class CertRepMessage(core.Sequence):
    """CertRepMessage."""

    _fields = [("ca_pubs", CMPCertificates, {"explicit": 1, "optional": True}), ("response", CertResponses)]


class KeyRecRepContent(core.Sequence):
    """KeyRecRepContent."""

    _fields = [
        ("status", PKIStatusInfo),
        ("new_sig_cert", CMPCertificate, {"explicit": 0, "optional": True}),
        ("ca_certs", CMPCertificates, {"explicit": 1, "optional": True}),
        ("key_pair_hist", CertifiedKeyPairs, {"explicit": 2, "optional": True}),
    ]


# --- revocation (sections 5.3.9, 5.3.10, 5.3.15) ---------------------------------------------------------------------


class RevDetails(core.Sequence):
    """RevDetails."""

    _fields = [("cert_details", CertTemplate), ("crl_entry_details", CRLEntryExtensions, {"optional": True})]


class RevReqContent(core.SequenceOf):
    """RevReqContent."""

    _child_spec = RevDetails


class PKIStatusInfos(NonEmptySequenceOf):
    """The status of RevRepContent."""

    _child_spec = PKIStatusInfo


class CertIds(NonEmptySequenceOf):
    """The revCerts of RevRepContent."""

    _child_spec = CertId


class RevRepContent(core.Sequence):
    """RevRepContent."""

    _fields = [
        ("status", PKIStatusInfos),
        ("rev_certs", CertIds, {"explicit": 0, "optional": True}),
        ("crls", CertificateLists, {"explicit": 1, "optional": True}),
    ]


class RevAnnContent(core.Sequence):
    """RevAnnContent."""

    _fields = [
        ("status", PKIStatus),
        ("cert_id", CertId),
        ("will_be_revoked_at", core.GeneralizedTime),
        ("bad_since_date", core.GeneralizedTime),
        ("crl_details", CRLEntryExtensions, {"optional": True}),
    ]


# --- announcements (sections 5.3.13, 5.3.16) -------------------------------------------------------------------------


class CAKeyUpdAnnContent(core.Sequence):
    """CAKeyUpdAnnContent; deprecated since cmp2021."""

    _fields = [("old_with_new", CMPCertificate), ("new_with_old", CMPCertificate), ("new_with_new", CMPCertificate)]


class RootCaKeyUpdateContent(core.Sequence):
    """RootCaKeyUpdateContent (section 5.3.19.15)."""

    _fields = [
        ("new_with_new", CMPCertificate),
        ("new_with_old", CMPCertificate, {"explicit": 0, "optional": True}),
        ("old_with_new", CMPCertificate, {"explicit": 1, "optional": True}),
    ]


class CAKeyUpdContent(core.Choice):
    """CAKeyUpdContent."""

    _alternatives = [
        ("ca_key_upd_ann_v2", CAKeyUpdAnnContent),
        ("ca_key_upd_ann_v3", RootCaKeyUpdateContent, {"explicit": 0}),
    ]


class CRLAnnContent(core.SequenceOf):
    """CRLAnnContent."""

    _child_spec = CertificateList


# --- general messages (section 5.3.19) -------------------------------------------------------------------------------


class CertReqTemplateContent(core.Sequence):
    """CertReqTemplateContent (section 5.3.19.16)."""

    _fields = [("cert_template", CertTemplate), ("key_spec", Controls, {"optional": True})]


class CRLSource(core.Choice):
    """CRLSource (section 5.3.19.17)."""

    _alternatives = [
        ("dpn", x509.DistributionPointName, {"explicit": 0}),
        ("issuer", x509.GeneralNames, {"explicit": 1}),
    ]


class CRLStatus(core.Sequence):
    """CRLStatus."""

    _fields = [("source", CRLSource), ("this_update", x509.Time, {"optional": True})]


class CRLStatusList(NonEmptySequenceOf):
    """The value of id-it-crlStatusList."""

    _child_spec = CRLStatus


class KemCiphertextInfo(core.Sequence):
    """KemCiphertextInfo (section 5.1.3.4)."""

    _fields = [("kem", AlgorithmIdentifier), ("ct", core.OctetString)]


class KemOtherInfo(core.Sequence):
    """KemOtherInfo (section 5.1.3.4): input of the key derivation; `static_string` is "CMP-KEM"."""

    _fields = [
        ("static_string", PKIFreeText),
        ("transaction_id", core.OctetString),
        ("kem_context", core.OctetString, {"explicit": 0, "optional": True}),
    ]


class AlgorithmIdentifiers(NonEmptySequenceOf):
    """SEQUENCE SIZE (1..MAX) OF AlgorithmIdentifier: id-it-signKeyPairTypes, id-it-encKeyPairTypes."""

    _child_spec = AlgorithmIdentifier


class ObjectIdentifiers(NonEmptySequenceOf):
    """The value of id-it-unsupportedOIDs."""

    _child_spec = core.ObjectIdentifier


class UTF8Strings(core.SequenceOf):
    """The value of id-it-suppLangTags."""

    _child_spec = core.UTF8String


class CertProfileValue(NonEmptySequenceOf):
    """The value of id-it-certProfile."""

    _child_spec = core.UTF8String


class InfoType(core.ObjectIdentifier):
    """The types of InfoTypeAndValue: the RFC's names without `id-it-`."""

    _map = {
        "1.3.6.1.5.5.7.4.1": "caProtEncCert",
        "1.3.6.1.5.5.7.4.2": "signKeyPairTypes",
        "1.3.6.1.5.5.7.4.3": "encKeyPairTypes",
        "1.3.6.1.5.5.7.4.4": "preferredSymmAlg",
        "1.3.6.1.5.5.7.4.5": "caKeyUpdateInfo",
        "1.3.6.1.5.5.7.4.6": "currentCRL",
        "1.3.6.1.5.5.7.4.7": "unsupportedOIDs",
        "1.3.6.1.5.5.7.4.10": "keyPairParamReq",
        "1.3.6.1.5.5.7.4.11": "keyPairParamRep",
        "1.3.6.1.5.5.7.4.12": "revPassphrase",
        "1.3.6.1.5.5.7.4.13": "implicitConfirm",
        "1.3.6.1.5.5.7.4.14": "confirmWaitTime",
        "1.3.6.1.5.5.7.4.15": "origPKIMessage",
        "1.3.6.1.5.5.7.4.16": "suppLangTags",
        "1.3.6.1.5.5.7.4.17": "caCerts",
        "1.3.6.1.5.5.7.4.18": "rootCaKeyUpdate",
        "1.3.6.1.5.5.7.4.19": "certReqTemplate",
        "1.3.6.1.5.5.7.4.20": "rootCaCert",
        "1.3.6.1.5.5.7.4.21": "certProfile",
        "1.3.6.1.5.5.7.4.22": "crlStatusList",
        "1.3.6.1.5.5.7.4.23": "crls",
        "1.3.6.1.5.5.7.4.24": "KemCiphertextInfo",
    }


class InfoTypeAndValue(core.Sequence):
    """InfoTypeAndValue; the value of an unknown type stays `Any`."""

    _fields = [("info_type", InfoType), ("info_value", core.Any, {"optional": True})]
    _oid_pair = ("info_type", "info_value")
    _oid_specs = {
        "caProtEncCert": CMPCertificate,
        "signKeyPairTypes": AlgorithmIdentifiers,
        "encKeyPairTypes": AlgorithmIdentifiers,
        "preferredSymmAlg": AlgorithmIdentifier,
        "caKeyUpdateInfo": CAKeyUpdAnnContent,
        "currentCRL": CertificateList,
        "unsupportedOIDs": ObjectIdentifiers,
        "keyPairParamReq": core.ObjectIdentifier,
        "keyPairParamRep": AlgorithmIdentifier,
        "revPassphrase": EncryptedKey,
        "implicitConfirm": core.Null,
        "confirmWaitTime": core.GeneralizedTime,
        "suppLangTags": UTF8Strings,
        "caCerts": CMPCertificates,
        "rootCaKeyUpdate": RootCaKeyUpdateContent,
        "certReqTemplate": CertReqTemplateContent,
        "rootCaCert": CMPCertificate,
        "certProfile": CertProfileValue,
        "crlStatusList": CRLStatusList,
        "crls": CertificateLists,
        "KemCiphertextInfo": KemCiphertextInfo,
    }


class GeneralInfo(NonEmptySequenceOf):
    """The generalInfo of PKIHeader."""

    _child_spec = InfoTypeAndValue


class GenMsgContent(core.SequenceOf):
    """GenMsgContent."""

    _child_spec = InfoTypeAndValue


class GenRepContent(core.SequenceOf):
    """GenRepContent."""

    _child_spec = InfoTypeAndValue


# --- error, confirmation, polling (sections 5.3.18, 5.3.21, 5.3.22) --------------------------------------------------


class ErrorMsgContent(core.Sequence):
    """ErrorMsgContent."""

    _fields = [
        ("pki_status_info", PKIStatusInfo),
        ("error_code", core.Integer, {"optional": True}),
        ("error_details", PKIFreeText, {"optional": True}),
    ]


class CertStatus(core.Sequence):
    """CertStatus; `hash_alg` needs pvno cmp2021."""

    _fields = [
        ("cert_hash", core.OctetString),
        ("cert_req_id", core.Integer),
        ("status_info", PKIStatusInfo, {"optional": True}),
        ("hash_alg", AlgorithmIdentifier, {"explicit": 0, "optional": True}),
    ]


class CertConfirmContent(core.SequenceOf):
    """CertConfirmContent; empty, it rejects every certificate of the transaction."""

    _child_spec = CertStatus


class PollReq(core.Sequence):
    """One item of PollReqContent; `cert_req_id` is -1 for a whole message."""

    _fields = [("cert_req_id", core.Integer)]


class PollReqContent(core.SequenceOf):
    """PollReqContent."""

    _child_spec = PollReq


class PollRep(core.Sequence):
    """One item of PollRepContent; `check_after` is in seconds."""

    _fields = [
        ("cert_req_id", core.Integer),
        ("check_after", core.Integer),
        ("reason", PKIFreeText, {"optional": True}),
    ]


class PollRepContent(core.SequenceOf):
    """PollRepContent."""

    _child_spec = PollRep


# --- the message (section 5.1) ---------------------------------------------------------------------------------------


class Pvno(core.Integer):
    """The pvno of PKIHeader."""

    _map = {1: "cmp1999", 2: "cmp2000", 3: "cmp2021"}


class PKIHeader(core.Sequence):
    """PKIHeader."""

    _fields = [
        ("pvno", Pvno),
        ("sender", x509.GeneralName),
        ("recipient", x509.GeneralName),
        ("message_time", core.GeneralizedTime, {"explicit": 0, "optional": True}),
        ("protection_alg", AlgorithmIdentifier, {"explicit": 1, "optional": True}),
        ("sender_kid", core.OctetString, {"explicit": 2, "optional": True}),
        ("recip_kid", core.OctetString, {"explicit": 3, "optional": True}),
        ("transaction_id", core.OctetString, {"explicit": 4, "optional": True}),
        ("sender_nonce", core.OctetString, {"explicit": 5, "optional": True}),
        ("recip_nonce", core.OctetString, {"explicit": 6, "optional": True}),
        ("free_text", PKIFreeText, {"explicit": 7, "optional": True}),
        ("general_info", GeneralInfo, {"explicit": 8, "optional": True}),
    ]


class PKIMessages(NonEmptySequenceOf):
    """PKIMessages; its item is PKIMessage, set below."""


NestedMessageContent = PKIMessages
InfoTypeAndValue._oid_specs["origPKIMessage"] = PKIMessages


class PKIBody(core.Choice):
    """PKIBody; the number of an alternative is its place in this list."""

    _alternatives = [
        ("ir", CertReqMessages, {"explicit": 0}),
        ("ip", CertRepMessage, {"explicit": 1}),
        ("cr", CertReqMessages, {"explicit": 2}),
        ("cp", CertRepMessage, {"explicit": 3}),
        ("p10cr", CertificationRequest, {"explicit": 4}),
        ("popdecc", POPODecKeyChallContent, {"explicit": 5}),
        ("popdecr", POPODecKeyRespContent, {"explicit": 6}),
        ("kur", CertReqMessages, {"explicit": 7}),
        ("kup", CertRepMessage, {"explicit": 8}),
        ("krr", CertReqMessages, {"explicit": 9}),
        ("krp", KeyRecRepContent, {"explicit": 10}),
        ("rr", RevReqContent, {"explicit": 11}),
        ("rp", RevRepContent, {"explicit": 12}),
        ("ccr", CertReqMessages, {"explicit": 13}),
        ("ccp", CertRepMessage, {"explicit": 14}),
        ("ckuann", CAKeyUpdContent, {"explicit": 15}),
        ("cann", CertAnnContent, {"explicit": 16}),
        ("rann", RevAnnContent, {"explicit": 17}),
        ("crlann", CRLAnnContent, {"explicit": 18}),
        ("pkiconf", PKIConfirmContent, {"explicit": 19}),
        ("nested", NestedMessageContent, {"explicit": 20}),
        ("genm", GenMsgContent, {"explicit": 21}),
        ("genp", GenRepContent, {"explicit": 22}),
        ("error", ErrorMsgContent, {"explicit": 23}),
        ("cert_conf", CertConfirmContent, {"explicit": 24}),
        ("poll_req", PollReqContent, {"explicit": 25}),
        ("poll_rep", PollRepContent, {"explicit": 26}),
    ]


class PKIMessage(core.Sequence):
    """PKIMessage."""

    _fields = [
        ("header", PKIHeader),
        ("body", PKIBody),
        ("protection", PKIProtection, {"explicit": 0, "optional": True}),
        ("extra_certs", CMPCertificates, {"explicit": 1, "optional": True}),
    ]


PKIMessages._child_spec = PKIMessage


class ProtectedPart(core.Sequence):
    """ProtectedPart: what the protection is computed over."""

    _fields = [("header", PKIHeader), ("body", PKIBody)]
