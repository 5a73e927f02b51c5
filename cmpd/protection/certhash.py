"""Hashes that the peer names: certHash in certConf (RFC 9810 section 5.3.18)."""

from cmpd.asn1 import algorithms, der


def certificate_hash(certificate: bytes) -> bytes | None:
    """The certHash of a certificate (DER) by its own signature algorithm; None if that defines no hash."""
    try:
        start, stop = der.expect(certificate, 0, len(certificate), der.SEQUENCE, "Certificate")
        _, start = der.expect(certificate, start, stop, der.SEQUENCE, "tbsCertificate")
        end = algorithms.read_algorithm(certificate, start, stop, "signatureAlgorithm")[2]
    except der.DerError:
        return None
    name = algorithms.certificate_hash_name(certificate[start:end])
    return None if name is None else algorithms.certificate_hash(name, certificate)


def hash_by_algorithm(algorithm: bytes, octets: bytes) -> bytes | None:
    """The hash over `octets` that CertStatus.hashAlg (DER) names; None unless it is one of HASH_ALGS."""
    try:
        name, end = algorithms.read_named(algorithm, 0, len(algorithm), algorithms.HASH_ALGS, "hashAlg")
    except (der.DerError, algorithms.AlgorithmError):
        return None
    return algorithms.certificate_hash(name, octets) if end == len(algorithm) else None
