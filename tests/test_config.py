"""The configuration: every rule, every default, and all mistakes at once."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmpd.asn1 import der, names
from cmpd.config import Config, load, parse, template
from cmpd.config_doors import HttpConfig, SpoolConfig, TcpConfig
from cmpd.config_values import (
    DAY,
    EXTENDED_KEY_USAGES,
    HOUR,
    MINUTE,
    KeyType,
    duration_text,
    listen_address,
    publish_address,
    seconds,
    socket_name,
)
from cmpd.errors import ConfigError

BASE = Path("/base")
FILES: dict[str, Any] = {
    "ca": {"certificate": "ca.pem", "key": "ca.key"},
    "cmp": {"certificate": "cmp.pem", "key": "/keys/cmp.key"},
    "store": {"path": "cmpd.db", "secrets_key": "store.key"},
    "tcp": [{"listen": "127.0.0.1:829"}],
    "profile": {"default": {}},
}


HTTP = {"listen": "127.0.0.1:8081"}
SPOOL = {"directory": "spool"}
LISTS: dict[str, dict[str, Any]] = {"tcp": FILES["tcp"][0], "http": HTTP, "spool": SPOOL}


def document(table: str = "", **keys: Any) -> dict[str, Any]:
    """A complete document with `keys` in one table: "log", "tcp" (the only one) or "profile" (the default one)."""
    made = dict(FILES)
    if table in LISTS:
        made[table] = [LISTS[table] | keys]
    elif table == "profile":
        made["profile"] = {"default": keys}
    elif table:
        made[table] = FILES.get(table, {}) | keys
    return made


def mistakes(found: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(found, BASE)
    return str(caught.value).split("\n")


# --- defaults --------------------------------------------------------------------------------------------------------


def test_defaults_are_the_documented_ones():
    config = parse(document(), BASE)
    entrance = {"enabled": True, "bodies": None, "mode": "strict", "default_profile": None}
    listener = entrance | {
        "tls_certificate": None,
        "tls_key": None,
        "tls_minimum": "1.2",
        "tls_client": "none",
        "tls_client_ca": None,
        "tls_authenticates": False,
        "tls_handshake_timeout": 10,
    }
    assert config.tcp[0].model_dump() == listener | {
        "listen": "127.0.0.1:829",
        "max_message_octets": 262144,
        "partial_frame_timeout": 30,
        "idle_timeout": HOUR,
        "send_timeout": MINUTE,
        "max_connections": 10000,
        "max_connections_per_address": 1024,
        "max_in_flight": 32,
        "write_high_water": 262144,
        "rfc2510": True,
        "transport_polling": True,
    }
    assert config.http == config.spool == ()
    assert HttpConfig(**HTTP).model_dump() == listener | HTTP | {
        "path": "/cmp",
        "tcp_messages": True,
        "transport_polling": True,
        "max_message_octets": 262144,
        "request_timeout": 30,
        "idle_timeout": HOUR,
        "max_connections": 10000,
        "max_connections_per_address": 1024,
    }
    assert SpoolConfig(directory="x").model_dump() == entrance | {
        "directory": Path("x"),
        "interval": 1,
        "max_message_octets": 262144,
    }
    assert config.local.model_dump() == entrance | {"socket": None, "max_message_octets": 262144}
    assert config.cmp.model_dump(exclude={"certificate", "key"}) == {
        "signature": None,
        **{f"{pair}_{half}": None for pair in ("encryption", "agreement", "kem") for half in ("certificate", "key")},
        "protection": "signature",
    }
    assert config.protection.model_dump() == {
        "allow_sha1_mac": True,
        "min_iterations": 100,
        "max_iterations": 100_000,
        "max_pbkdf2_iterations": 1_000_000,
        "max_salt": 128,
        "message_time_window": 5 * MINUTE,
    }
    assert config.enrolment.model_dump() == {
        "default_profile": "default",
        "implicit_confirm": True,
        "confirm_wait": 10 * MINUTE,
        "retention": DAY,
        "max_requests_per_message": 16,
        "certificate_holder_may_ask_for": "own",
        "approval_wait": 30 * DAY,
        "check_after": 30,
        "max_waiting": 1000,
        "ca_pubs": True,
    }
    assert config.profile["default"].model_dump() == {
        "keys": get_args(KeyType),
        "rsa_min_bits": 2048,
        "rsa_max_bits": 8192,
        "validity": 365 * DAY,
        "max_validity": None,
        "min_validity": None,
        "backdate": 5 * MINUTE,
        "serial_number": "random",
        "subject_required": (),
        "subject_allowed": None,
        "subject_fixed": {},
        "subject_patterns": {},
        "subject_order": None,
        "allow_empty_subject": True,
        "san_allowed": ("dns", "ip", "email", "uri"),
        "san_required": False,
        "san_for_empty_subject": (),
        "san_patterns": {},
        "san_networks": None,
        "key_usage": ("digitalSignature",),
        "key_usage_allowed": ("digitalSignature", "nonRepudiation", "keyEncipherment", "keyAgreement"),
        "key_usage_forced": (),
        "key_usage_forbidden": (),
        "extended_key_usage": (),
        "extended_key_usage_allowed": ("clientAuth", "serverAuth", "emailProtection"),
        "extended_key_usage_forced": (),
        "extended_key_usage_forbidden": (),
        "ca": False,
        "path_length": 0,
        "permitted_names": {},
        "excluded_names": {},
        "policies": {},
        "policy_notices": {},
        "crl_urls": None,
        "delta_crl_urls": None,
        "ocsp_urls": None,
        "issuer_urls": None,
        "unique_subject": False,
        "key_sharing": "any",
        "allow_key_reuse": True,
        "approval": False,
        "await_confirmation": True,
    }
    assert config.log.model_dump() == {"level": "info", "json_lines": False}
    assert config.ca.chain is None
    assert config.ca.passphrase_file is None


VALUES = {"ca": FILES["ca"], "cmp": FILES["cmp"], "store": FILES["store"], "tcp": FILES["tcp"][0]}


def uncommented(text: str, *, examples: bool = False) -> dict[str, Any]:
    """A template without the marks before keys and tables, and before examples too."""
    marks = "#|# Example: " if examples else "#"
    return tomllib.loads(re.sub(rf"^({marks})(?=\w+ = |\[\[)", "", text, flags=re.M))


def test_the_template_states_exactly_the_defaults():
    text = template(VALUES)
    as_written = parse(tomllib.loads(text), BASE)
    assert as_written == parse(document(), BASE)
    assert parse(uncommented(text), BASE) == parse(document() | {"http": [HTTP], "spool": [SPOOL]}, BASE)


def test_doors_that_are_given_to_the_template_are_open_and_the_others_are_comments():
    text = template(VALUES | {"http": {"listen": "[::]:80"}})
    config = parse(tomllib.loads(text), BASE)
    assert [door.listen for door in config.http] == ["[::]:80"]
    assert config.spool == ()
    assert re.findall(r"^#?\[\[.*$", text, re.M) == ["[[tcp]]", "[[http]]", "#[[spool]]"]
    said = re.findall(r"begins with the lines \[\[(\w+)\]\] and (\w+)", re.sub(r"\n# ", " ", text))
    assert said == [("spool", "directory")]


@pytest.mark.parametrize(("table", "key"), [("http", "listen"), ("spool", "directory")])
def test_head_and_first_key_without_their_marks_make_a_door(table: str, key: str):
    head, _, rest = template(VALUES).partition(f"\n#[[{table}]]\n")
    config = parse(tomllib.loads(f"{head}\n[[{table}]]\n{rest.replace(f'#{key} = ', f'{key} = ', 1)}"), BASE)
    assert [door.model_fields_set for door in getattr(config, table)] == [{key}]


def test_in_the_template_what_must_be_set_comes_first_and_the_keys_of_tls_stand_together():
    keys = re.findall(r"^(?:#|# Example: )?(\[\[\w+|\w+(?= = ))", template(VALUES), re.M)
    for head, first in (("[[tcp", "listen"), ("[[http", "listen"), ("[[spool", "directory")):
        assert keys[keys.index(head) + 1] == first
    for table in ("[[tcp", "[[http"):
        places = [place for place, key in enumerate(keys[keys.index(table) :][:13]) if key.startswith("tls_")]
        assert places == list(range(places[0], places[0] + 7))


def test_the_template_names_every_key_and_its_examples_are_valid():
    config = parse(uncommented(template(VALUES), examples=True), BASE)
    tables = [config.ca, config.cmp, config.store, config.tcp[0], config.protection, config.enrolment, config.log]
    tables += [config.revocation, config.crl, config.ocsp, config.publish, config.http[0], config.spool[0]]
    for table in [*tables, config.local, config.profile["default"]]:
        assert table.model_fields_set == set(type(table).model_fields)
    assert config.profile["default"].max_validity == 730 * DAY


def test_template_explains_every_key():
    lines = template(VALUES).splitlines()
    for before, line in pairwise(lines):
        if re.match(r"#?\w+ = |#?\[", line):
            assert before.startswith("# "), line


# --- reading ---------------------------------------------------------------------------------------------------------


def test_relative_paths_are_relative_to_the_file(tmp_path: Path):
    directory = tmp_path / "etc"
    directory.mkdir()
    (directory / "cmpd.toml").write_text(
        template({name: FILES[name] for name in ("ca", "cmp", "store")} | {"tcp": {"listen": "systemd"}})
    )
    config = load(directory / "cmpd.toml")
    assert config.ca.certificate == directory / "ca.pem"
    assert config.cmp.key == Path("/keys/cmp.key")
    assert config.tcp[0].listen == "systemd"


def test_all_mistakes_come_at_once_each_with_its_path():
    found = {
        "ca": {"certificat": "x", "key": 3},
        "store": FILES["store"],
        "tcp": [{"listen": "nowhere", "max_inflight": 3, "idle_timeout": "0s", "rfc2510": 1}],
        "protection": {"max_salt": "x"},
        "enrolment": {"certificate_holder_may_ask_for": "owm", "write_high_water": 2},
        "profile": {"a b": {}, "keys": {"keys": ["rsa", "p-256"], "rsa_mn_bits": 3}},
        "log": {"level": "infos"},
        "profil": {},
    }
    assert mistakes(found) == [
        "ca.certificate: missing",
        "ca.key: want a path, have 3",
        'ca.certificat: unknown key; the nearest is "certificate"',
        "cmp: missing",
        'tcp[0].listen: want "HOST:PORT", "[IPv6 address]:PORT", "systemd" or "systemd:NAME", have "nowhere"',
        'tcp[0].idle_timeout: want 1s to 365d, have "0s"',
        "tcp[0].rfc2510: want true or false, have 1",
        'tcp[0].max_inflight: unknown key; the nearest is "max_in_flight"',
        'protection.max_salt: want a whole number, have "x"',
        'enrolment.certificate_holder_may_ask_for: "owm" is not possible; the nearest is "own"',
        "enrolment.write_high_water: unknown key; it belongs to [tcp]",
        "profile.\"a b\": want a name of letters, digits, '_', '.' and '-', have \"a b\"",
        'profile.keys.keys[1]: "p-256" is not possible; the nearest is "p256"',
        'profile.keys.rsa_mn_bits: unknown key; the nearest is "rsa_min_bits"',
        'log.level: "infos" is not possible; the nearest is "info"',
        'profil: unknown key; the nearest is "profile"',
    ]


@pytest.mark.parametrize("octets", [b"[ca\n", b'a = "\xff"', b"x = 1\nx = 2"])
def test_what_is_not_toml_is_one_clear_error(tmp_path: Path, octets: bytes):
    path = tmp_path / "cmpd.toml"
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: is not ")):
        load(path)


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"/nowhere/cmpd\.toml: cannot be read: No such file"):
        load(Path("/nowhere/cmpd.toml"))


def test_each_line_names_the_file(tmp_path: Path):
    path = tmp_path / "cmpd.toml"
    path.write_text("")
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).split("\n")
    assert [line.removeprefix(f"{path}: ") for line in lines] == [
        *(f"{name}: missing" for name in ("ca", "cmp", "store")),
        "http: want at least one [[tcp]] or [[http]], have none",
        "profile: missing",
    ]


def test_values_are_frozen():
    config = parse(document(), BASE)
    with pytest.raises(ValueError, match="frozen"):
        config.log.level = "debug"


# --- rules -----------------------------------------------------------------------------------------------------------

RULES: list[tuple[str, dict[str, Any], str]] = [
    ("tcp", {"max_message_octets": 4095}, "tcp[0].max_message_octets: want at least 4096, have 4095"),
    ("tcp", {"max_connections": 0}, "tcp[0].max_connections: want at least 1, have 0"),
    ("tcp", {"max_connections_per_address": True}, "tcp[0].max_connections_per_address: want a whole"),
    ("tcp", {"max_in_flight": 4097}, "tcp[0].max_in_flight: want at most 4096, have 4097"),
    ("tcp", {"write_high_water": 1.5}, "tcp[0].write_high_water: want a whole number, have 1.5"),
    ("tcp", {"partial_frame_timeout": 30}, "tcp[0].partial_frame_timeout: want a duration such as"),
    ("tcp", {"send_timeout": "2h"}, 'tcp[0].send_timeout: want 1s to 1h, have "2h"'),
    ("protection", {"min_iterations": 500, "max_iterations": 400},
     "protection.max_iterations: want at least min_iterations (500), have 400"),
    ("protection", {"min_iterations": 200_000},
     "protection.max_iterations: want at least min_iterations (200000), have 100000"),
    ("protection", {"allow_sha1_mac": "yes"}, 'protection.allow_sha1_mac: want true or false, have "yes"'),
    ("protection", {"message_time_window": "of"}, "protection.message_time_window: want a duration such as"),
    ("enrolment", {"confirm_wait": "31d"}, 'enrolment.confirm_wait: want 1s to 30d, have "31d"'),
    ("enrolment", {"max_requests_per_message": 0}, "enrolment.max_requests_per_message: want at least 1, have 0"),
    ("enrolment", {"default_profile": "other"},
     "enrolment.default_profile: there is no [profile.other]"),
    ("profile", {"keys": []}, "profile.default.keys: want at least one, have none"),
    ("profile", {"keys": ["rsa", "rsa"]}, 'profile.default.keys: "rsa" is there twice'),
    ("profile", {"keys": "rsa"}, 'profile.default.keys: want a list, have "rsa"'),
    ("profile", {"rsa_min_bits": 1024}, "profile.default.rsa_min_bits: want at least 2048, have 1024"),
    ("profile", {"rsa_min_bits": 4096, "rsa_max_bits": 3072},
     "profile.default.rsa_max_bits: want at least rsa_min_bits (4096), have 3072"),
    ("profile", {"validity": "0d"}, 'profile.default.validity: want 1s to 36500d, have "0d"'),
    ("profile", {"validity": "365d", "max_validity": "364d"},
     'profile.default.max_validity: want at least validity ("365d"), have "364d"'),
    ("profile", {"backdate": "8d"}, 'profile.default.backdate: want 0s to 7d, have "8d"'),
    ("profile", {"subject_required": ["cn"]}, 'profile.default.subject_required[0]: "cn" is no attribute known here; '
     'the nearest is "CN"'),
    ("profile", {"subject_required": ["CN"], "subject_allowed": ["O"]},
     'profile.default.subject_allowed: lacks "CN", which subject_required has'),
    ("profile", {"san_allowed": ["dns", "url"]}, 'profile.default.san_allowed[1]: "url" is not possible; '
     'the nearest is "uri"'),
    ("profile", {"san_allowed": [], "san_required": True},
     "profile.default.san_required: san_allowed is empty: no request could be granted"),
    ("profile", {"key_usage": ["certSign"]}, 'profile.default.key_usage[0]: "certSign" is no keyUsage known here; '
     'the nearest is "keyCertSign"'),
    ("profile", {"key_usage": ["keyCertSign"], "key_usage_allowed": ["keyCertSign"]},
     'profile.default.ca: key_usage has "keyCertSign", which only a CA may have: want ca = true'),
    ("profile", {"key_usage_allowed": ["digitalSignature", "cRLSign"]},
     'profile.default.ca: key_usage_allowed has "cRLSign", which only a CA may have: want ca = true'),
    ("profile", {"ca": True}, "profile.default.ca: key_usage lacks keyCertSign, without which a CA can issue nothing"),
    ("profile", {"ca": True, "key_usage": ["keyCertSign"], "key_usage_allowed": ["keyCertSign"]},
     "profile.default.ca: want crl.issuing_distribution_point = false with it, or the CRL says that it is about end"),
    ("profile", {"path_length": 1}, "profile.default.path_length: means nothing without ca = true"),
    ("profile", {"path_length": -1}, "profile.default.path_length: want at least 0, have -1"),
    ("profile", {"min_validity": "1d"}, "profile.default.min_validity: means nothing without max_validity: "),
    ("profile", {"min_validity": "3d", "validity": "2d", "max_validity": "9d"},
     'profile.default.min_validity: want at most validity ("2d"), have "3d"'),
    ("profile", {"serial_number": "mine"}, 'profile.default.serial_number: "mine" is not possible; known are random'),
    ("profile", {"subject_fixed": {"c": "DE"}}, 'profile.default.subject_fixed.c: "c" is no attribute known here; '),
    ("profile", {"subject_fixed": {"C": "DEU"}}, 'profile.default.subject_fixed: C: "DEU" is no value for it: '),
    ("profile", {"subject_fixed": {"serialNumber": "a*b"}}, "profile.default.subject_fixed: serialNumber: "),
    ("profile", {"subject_fixed": {"O": ""}}, 'profile.default.subject_fixed: O: "" is no value for it: '),
    ("profile", {"subject_fixed": {"O": "x"}, "subject_allowed": ["CN"]},
     "profile.default.subject_fixed: is about O, which subject_allowed lacks"),
    ("profile", {"subject_patterns": {"O": "x"}, "subject_allowed": ["CN"]},
     "profile.default.subject_patterns: is about O, which subject_allowed lacks"),
    ("profile", {"subject_patterns": {"CN": "x"}, "subject_fixed": {"CN": "x"}},
     "profile.default.subject_patterns: CN has a value in subject_fixed already"),
    ("profile", {"subject_patterns": {"CN": "^x$"}},
     "profile.default.subject_patterns.CN: not a pattern: a pattern is about the whole value, without ^, at character"),
    ("profile", {"subject_patterns": {"CN": "(x"}}, "profile.default.subject_patterns.CN: not a pattern: a ( wit"),
    ("profile", {"subject_order": ["CN", "CN"]}, 'profile.default.subject_order: "CN" is there twice'),
    ("profile", {"san_patterns": {"url": "x"}}, 'profile.default.san_patterns.url: "url" is not possible; the nearest'),
    ("profile", {"san_patterns": {"dn": "x"}}, 'profile.default.san_patterns: is about "dn", which san_allowed lacks'),
    ("profile", {"san_patterns": {"ip": "x"}}, 'profile.default.san_patterns: an "ip" has no pattern: say its'),
    ("profile", {"san_networks": ["10.0.0.1/8"]}, 'profile.default.san_networks[0]: want a network such as "192.0.2'),
    ("profile", {"san_networks": []}, "profile.default.san_networks: want at least one, have none"),
    ("profile", {"san_networks": ["10.0.0.0/8"], "san_allowed": ["dns"]},
     'profile.default.san_networks: is about "ip", which san_allowed lacks'),
    ("profile", {"san_for_empty_subject": ["dn"]},
     'profile.default.san_for_empty_subject: is about "dn", which san_allowed lacks'),
    ("profile", {"key_usage_forced": ["dataEncipherment"]},
     'profile.default.key_usage_forced: "dataEncipherment" is not in key_usage_allowed'),
    ("profile", {"key_usage_forbidden": ["keyAgreement"]},
     'profile.default.key_usage_forbidden: "keyAgreement" is in key_usage_allowed too'),
    ("profile", {"extended_key_usage_forced": ["cmcRA"]},
     'profile.default.extended_key_usage_forced: "cmcRA" is not in extended_key_usage_allowed'),
    ("profile", {"extended_key_usage_forbidden": ["clientAuth"]},
     'profile.default.extended_key_usage_forbidden: "clientAuth" is in extended_key_usage_allowed too'),
    ("profile", {"policies": {"one": ""}}, 'profile.default.policies.one: want the dotted OID of a policy, have "one"'),
    ("profile", {"policies": {"1.2.3": "x"}}, 'profile.default.policies: want a URL such as "http://pki.example.com/x.'),
    ("profile", {"crl_urls": ["x"]}, 'profile.default.crl_urls[0]: want a URL such as "http://pki.example.com/x.c'),
    ("profile", {"key_sharing": "all"}, 'profile.default.key_sharing: "all" is not possible; '),
    ("profile", {"unique_subject": 1}, "profile.default.unique_subject: want true or false, have 1"),
    ("profile", {"key_usage": []}, "profile.default.key_usage: want at least one, have none"),
    ("profile", {"key_usage": ["dataEncipherment"]},
     'profile.default.key_usage_allowed: lacks "dataEncipherment", which key_usage has'),
    ("profile", {"keys": ["ed25519"], "key_usage": ["keyAgreement"]},
     'profile.default.key_usage: "keyAgreement" fits none of the key types in keys'),
    ("profile", {"key_usage": ["decipherOnly"]},
     'profile.default.key_usage: "decipherOnly" means nothing without keyAgreement'),
    ("profile", {"extended_key_usage": ["clientauth"]},
     'profile.default.extended_key_usage[0]: "clientauth" is neither a key purpose known here nor a dotted '
     'OID; the nearest is "clientAuth"'),
    ("profile", {"extended_key_usage": ["1.2.3.4"]},
     'profile.default.extended_key_usage_allowed: lacks "1.2.3.4", which extended_key_usage has'),
    ("tcp", {"tls_certificate": "tls.pem"}, "tcp[0].tls_key: want tls_certificate and tls_key, or none of them"),
    ("http", {"tls_key": "tls.key"}, "http[0].tls_key: want tls_certificate and tls_key, or none of them"),
    ("tcp", {"tls_client": "required"},
     'tcp[0].tls_client: want tls_certificate and tls_key with it, have "required" alone'),
    ("http", {"tls_client": "must"}, 'http[0].tls_client: "must" is not possible; known are none, optional, required'),
    ("http", {"tls_minimum": "1.1"}, 'http[0].tls_minimum: "1.1" is not possible; the nearest is '),
    ("http", {"tls_minimum": 1.3}, "http[0].tls_minimum: 1.3 is not possible; the nearest is"),
    ("tcp", {"tls_authenticates": True},
     'tcp[0].tls_authenticates: want tls_client = "optional" or "required" with it, have "none"'),
    ("http", {"tls_certificate": "c", "tls_key": "k", "tls_authenticates": True},
     'http[0].tls_authenticates: want tls_client = "optional" or "required" with it, have "none"'),
    ("tcp", {"tls_handshake_timeout": "0s"}, 'tcp[0].tls_handshake_timeout: want 1s to 1h, have "0s"'),
    ("tcp", {"bodies": []}, "tcp[0].bodies: want at least one, have none"),
    ("http", {"bodies": ["cr", "cr"]}, 'http[0].bodies: "cr" is there twice'),
    ("spool", {"bodies": ["cr", "certConf"]}, 'spool[0].bodies[1]: "certConf" is not possible; '),
    ("local", {"bodies": "ir"}, 'local.bodies: want a list, have "ir"'),
    ("local", {"enabled": "no"}, 'local.enabled: want true or false, have "no"'),
    ("local", {"socket": ""}, 'local.socket: want a path, have ""'),
    ("local", {"max_message_octets": 0}, "local.max_message_octets: want at least 4096, have 0"),
    ("http", {"listen": "systemd:a b"}, 'http[0].listen: want "HOST:PORT", "[IPv6 address]:PORT", "systemd" or'),
    ("http", {"path": "cmp"}, 'http[0].path: want a path such as "/cmp", or "", have "cmp"'),
    ("http", {"path": "/cmp/"}, 'http[0].path: want a path such as "/cmp", or "", have "/cmp/"'),
    ("http", {"path": "/a b"}, 'http[0].path: want a path such as "/cmp", or "", have "/a b"'),
    ("http", {"request_timeout": "0s"}, 'http[0].request_timeout: want 1s to 1h, have "0s"'),
    ("http", {"idle_timeout": 3}, "http[0].idle_timeout: want a duration such as"),
    ("http", {"tcp_messages": 0}, "http[0].tcp_messages: want true or false, have 0"),
    ("http", {"max_in_flight": 3}, "http[0].max_in_flight: unknown key; "),
    ("http", {"write_high_water": 4096}, "http[0].write_high_water: unknown key; it belongs to [tcp]"),
    ("spool", {"directory": 3}, "spool[0].directory: want a path, have 3"),
    ("spool", {"interval": "2h"}, 'spool[0].interval: want 1s to 1h, have "2h"'),
    ("spool", {"listen": "127.0.0.1:1"}, "spool[0].listen: unknown key; "),
    ("enrolment", {"approval_wait": "30s"}, 'enrolment.approval_wait: want 1m to 365d, have "30s"'),
    ("enrolment", {"check_after": "0s"}, 'enrolment.check_after: want 1s to 1d, have "0s"'),
    ("enrolment", {"max_waiting": 0}, "enrolment.max_waiting: want at least 1, have 0"),
    ("profile", {"approval": "yes"}, 'profile.default.approval: want true or false, have "yes"'),
    ("log", {"json": 1}, "log.json: want true or false, have 1"),
    ("log", {"json_lines": True}, "log.json_lines: unknown key; known are level, json"),
    ("ca", {"chain": ""}, 'ca.chain: want a path, have ""'),
    *(("cmp", {f"{pair}_{half}": "x"}, f"cmp.{pair}_key: want {pair}_certificate and {pair}_key, or none of them")
      for pair in ("encryption", "agreement", "kem") for half in ("certificate", "key")),
    ("cmp", {"protection": "kem"}, 'cmp.protection: want kem_certificate and kem_key with "kem", have none'),
    ("cmp", {"protection": "mac"}, 'cmp.protection: "mac" is not possible; known are signature, kem'),
]  # fmt: skip


@pytest.mark.parametrize(("table", "keys", "wanted"), RULES, ids=[wanted.split(":")[0] for _, _, wanted in RULES])
def test_rule(table: str, keys: dict[str, Any], wanted: str):
    found = mistakes(document(table, **keys))
    assert len(found) == 1, found
    assert found[0].startswith(wanted)


def test_tables_that_must_have_an_entry_may_not_be_empty():
    assert mistakes(document() | {"profile": {}}) == ["profile: want at least one, have none"]


def test_two_doors_may_not_share_an_address():
    door = {"listen": "127.0.0.1:829"}
    assert mistakes(document() | {"tcp": [door, door]}) == ['tcp[1].listen: "127.0.0.1:829" is that of tcp[0] already']
    assert mistakes(document() | {"http": [door, door], "tcp": []}) == [
        'http[1].listen: "127.0.0.1:829" is that of http[0] already'
    ]
    assert mistakes(document() | {"http": [door]}) == ['http[0].listen: "127.0.0.1:829" is that of tcp[0] already']
    assert mistakes(document() | {"tcp": [{"listen": "systemd"}] * 2}) == [
        'tcp[1].listen: "systemd" is that of tcp[0] already'
    ]
    assert mistakes(document() | {"tcp": [], "http": [{"listen": "systemd:a"}] * 2}) == [
        'http[1].listen: "systemd:a" is that of http[0] already'
    ]


def test_doors_with_port_0_or_closed_ones_share_no_address():
    assert len(parse(document() | {"tcp": [{"listen": "127.0.0.1:0"}] * 2}, BASE).tcp) == 2
    door = {"listen": "127.0.0.1:829"}
    config = parse(document() | {"http": [door | {"enabled": False}]}, BASE)
    assert [config.tcp[0].enabled, config.http[0].enabled] == [True, False]
    assert len(parse(document() | {"http": [{"listen": "systemd:a"}, {"listen": "systemd:b"}]}, BASE).http) == 2


def test_there_is_a_door_and_it_may_be_http_alone():
    wanted = ["http: want at least one [[tcp]] or [[http]], have none"]
    assert mistakes(document() | {"tcp": []}) == wanted
    assert mistakes({name: value for name, value in document().items() if name != "tcp"}) == wanted
    assert mistakes(document() | {"tcp": [], "spool": [SPOOL]}) == wanted
    assert parse(document() | {"tcp": [], "http": [HTTP]}, BASE).tcp == ()


def test_a_door_that_cannot_be_read_is_no_missing_door():
    found = mistakes(document() | {"tcp": [{"listen": 829}]})
    assert found == ["tcp[0].listen: want text, have 829"]


@pytest.mark.parametrize("table", ["tcp", "http", "spool", "local"])
def test_the_default_profile_of_a_door_is_one_that_there_is(table: str):
    place = "local" if table == "local" else f"{table}[0]"
    assert mistakes(document(table, default_profile="other")) == [
        f"{place}.default_profile: there is no [profile.other]"
    ]
    config = parse(document(table, default_profile="default"), BASE)
    door = config.local if table == "local" else getattr(config, table)[0]
    assert door.default_profile == "default"


@pytest.mark.parametrize(("table", "model"), [("tcp", TcpConfig), ("http", HttpConfig)])
def test_keys_of_tls_go_together(table: str, model: type[TcpConfig | HttpConfig]):
    files = {"tls_certificate": "tls.pem", "tls_key": "tls.key"}
    rules = {"tls_client": "required", "tls_client_ca": "ca.pem", "tls_authenticates": True, "tls_minimum": "1.3"}
    door = getattr(parse(document(table, **files, **rules), BASE), table)[0]
    assert isinstance(door, model)
    assert door.has_tls
    assert (door.tls_certificate, door.tls_key, door.tls_client_ca) == tuple(
        BASE / name for name in ("tls.pem", "tls.key", "ca.pem")
    )
    assert not getattr(parse(document(table), BASE), table)[0].has_tls


def test_sockets_of_the_service_manager_have_a_name_or_none():
    assert [socket_name(text) for text in ("systemd:http", "systemd", "127.0.0.1:829")] == ["http", "", ""]


def test_off_is_none():
    assert parse(document("protection", message_time_window="off"), BASE).protection.message_time_window is None


def test_dotted_key_purposes_that_have_a_name_are_the_same():
    keys = {
        "extended_key_usage": ["1.3.6.1.5.5.7.3.2"],
        "extended_key_usage_allowed": ["clientAuth", "1.3.6.1.4.1.9.9"],
    }
    profile = parse(document("profile", **keys), BASE).profile["default"]
    assert profile.extended_key_usage == ("clientAuth",)
    assert profile.extended_key_usage_allowed == ("clientAuth", "1.3.6.1.4.1.9.9")
    assert len(set(EXTENDED_KEY_USAGES.values())) == len(EXTENDED_KEY_USAGES)


@pytest.mark.parametrize("oid", ["1.2", "1.40.3", "3.1.2", "1.02.3", "1.2.03", "1.2.", "1.2.3 "])
def test_what_is_no_oid_is_refused(oid: str):
    (line,) = mistakes(document("profile", extended_key_usage_allowed=[oid]))
    assert "is neither a key purpose known here nor a dotted OID" in line


@pytest.mark.parametrize("oid", ["1.39.3", "2.999.1", "0.9.2342.19200300", "2.5.29.37.0"])
def test_what_is_an_oid_can_be_encoded_and_is_the_same_again(oid: str):
    profile = parse(document("profile", extended_key_usage_allowed=[oid]), BASE).profile["default"]
    assert profile.extended_key_usage_allowed == (oid,)
    assert der.dotted(der.encode_oid(oid)[2:]) == oid


def test_every_attribute_that_a_name_can_have_can_be_allowed():
    allowed = list(names.ATTRIBUTE_TYPES)
    assert parse(document("profile", subject_allowed=allowed), BASE).profile["default"].subject_allowed == tuple(
        allowed
    )


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"), [("0s", 0), ("30s", 30), ("5m", 300), ("24h", DAY), ("365d", 365 * DAY), ("2w", 14 * DAY)]
)
def test_durations(text: str, wanted: int):
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 m", "5M", "1.5h", "1h30m", "٥m", 5, None])
def test_what_is_no_duration_is_refused(text: object):
    with pytest.raises(ValueError, match="want a duration"):
        seconds(text)


@given(st.integers(0, 10**9 - 1))
def test_duration_texts_mean_what_they_were_made_from(value: int):
    assert seconds(duration_text(value)) == value


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:829", ("127.0.0.1", 829)),
        ("[::1]:0", ("::1", 0)),
        ("[fe80::1%eth0]:829", ("fe80::1%eth0", 829)),
        ("ca.example.org:8829", ("ca.example.org", 8829)),
        ("systemd", None),
        ("systemd:http", None),
    ],
)
def test_listen_addresses(text: str, wanted: tuple[str, int] | None):
    assert listen_address(text) == wanted
    assert TcpConfig(listen=text).listen == text


@pytest.mark.parametrize(
    "text", ["", ":829", "829", "::1:829", "host:", "host:65536", "host:x", "[::1]", "a b:1", "tcp://h:1", "systemd:"]
)
def test_what_is_no_listen_address_is_refused(text: str):
    with pytest.raises(ValueError, match="HOST:PORT"):
        listen_address(text)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), JSON_LIKE))
def test_any_document_is_accepted_or_refused_with_lines(found: dict[str, Any]):
    for line in mistakes(found):
        assert re.fullmatch(r".+: .+", line)
        assert line.isprintable()


# --- the passphrase --------------------------------------------------------------------------------------------------


def with_file(path: Path | None) -> Config:
    return parse(document("ca", **({"passphrase_file": str(path)} if path else {})), BASE)


def test_passphrase_comes_from_the_file_without_its_last_newline(tmp_path: Path):
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(b"two words\n\n")
    assert with_file(path).ca.passphrase() == b"two words\n"


def test_passphrase_comes_from_the_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "passphrase").touch(mode=0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError, match="is empty"):
        with_file(None).ca.passphrase()
    (tmp_path / "passphrase").chmod(0o600)
    (tmp_path / "passphrase").write_bytes(b"secret")
    assert with_file(None).ca.passphrase() == b"secret"


def test_without_file_and_credential_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=r"set ca\.passphrase_file"):
        with_file(None).ca.passphrase()


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o601])
def test_a_passphrase_that_others_can_use_is_refused(tmp_path: Path, mode: int):
    path = tmp_path / "passphrase"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        with_file(path).ca.passphrase()


def test_a_passphrase_of_the_owners_group_is_accepted(tmp_path: Path):
    path = tmp_path / "passphrase"
    path.write_bytes(b"x")
    path.chmod(0o640)
    assert with_file(path).ca.passphrase() == b"x"


def test_an_endless_passphrase_is_refused(tmp_path: Path):
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(b"x" * 1024)
    with pytest.raises(ConfigError, match="longer than 1023"):
        with_file(path).ca.passphrase()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", "127.0.0.1:8080"),
        (":8080", "127.0.0.1:8080"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        ("[::]:80", "[::]:80"),
        ("pki.example:0", "pki.example:0"),
    ],
)
def test_what_is_published_on_a_port_alone_is_for_this_machine_alone(text: str, address: str):
    assert publish_address(text) == address


@pytest.mark.parametrize("text", ["", ":", "systemd", "70000", ":70000", "host", "host:", "::8080", "http://x:80"])
def test_an_address_to_publish_on_has_a_port(text: str):
    with pytest.raises(ValueError, match="want "):
        publish_address(text)


def test_answers_are_protected_by_a_kem_key_where_there_is_one():
    keys = {"kem_certificate": "kem.pem", "kem_key": "kem.key.pem", "protection": "kem"}
    assert parse(document("cmp", **keys), BASE).cmp.protection == "kem"


def test_the_file_of_the_ocsp_signer_is_one_of_its_own(tmp_path: Path) -> None:
    for key, value in (("ca.key", "ca.key.pem"), ("store.secrets_key", "store.key"), ("cmp.certificate", "cmp.pem")):
        document = {
            "ca": {"certificate": "ca.pem", "key": "ca.key.pem"},
            "cmp": {"certificate": "cmp.pem", "key": "cmp.key.pem"},
            "store": {"path": "cmpd.db", "secrets_key": "store.key"},
            "tcp": [{"listen": "127.0.0.1:0"}],
            "profile": {"default": {}},
            "ocsp": {"signer": value},
        }
        with pytest.raises(ConfigError, match=f"ocsp.signer: names the same file as {key}"):
            parse(document, tmp_path)
