"""ASN.1: the classes of RFC 4211 and RFC 9810 for asn1crypto, and a strict DER reader and writer for the hot path."""
