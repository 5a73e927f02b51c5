"""What every password-based MAC is held to before a key is derived: the bounds of the policy, and SHA-1.

Anybody can send a message with a MAC, so each bound is checked before the first hash is computed.
"""

from cmpd.errors import BadAlg
from cmpd.protection.base import ProtectionPolicy

_REMEDY = "use SHA-256, e.g. openssl cmp -digest sha256 -mac hmacWithSHA256"


def bound_iterations(noun: str, count: int, least: int, most: int) -> None:
    """BadAlg unless least <= count <= most."""
    if not least <= count <= most:
        raise BadAlg(f"{noun} iterationCount: want {least} to {most}, have {count}")


def bound_salt(noun: str, octets: int, policy: ProtectionPolicy) -> None:
    """BadAlg if the salt is longer than the policy allows; an empty one is allowed."""
    if octets > policy.max_salt:
        raise BadAlg(f"{noun} salt: want at most {policy.max_salt} octets, have {octets}")


def refuse_sha1(noun: str, parts: dict[str, str], policy: ProtectionPolicy) -> None:
    """BadAlg if the policy refuses SHA-1 and one of the `parts` (field -> hash) uses it; the text says what to do."""
    if not policy.allow_sha1_mac and "sha1" in parts.values():
        fields = " and ".join(field for field, name in parts.items() if name == "sha1")
        raise BadAlg(f"{noun}: SHA-1 is not accepted here (have it in {fields}); {_REMEDY}")
