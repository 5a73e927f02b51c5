"""What `cmpd init` leaves behind: complete, private, good by independent judges, and never over what was there."""

import asyncio
import hashlib
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from pkilint import loader, validation
from pkilint.pkix import certificate as pkix
from pkilint.pkix import extension as pkix_extension
from pkilint.pkix import name as pkix_name

from cmpd.asn1 import names
from cmpd.bootstrap import cmp_certificate, role_subject, root_certificate
from cmpd.cli import check
from cmpd.cli.check import examine
from cmpd.config import Config, load
from cmpd.daemon import assemble
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.install import KEYS, Plan, install_certificate, make_root, make_subordinate
from cmpd.outline import outline
from cmpd.private_keys import same_kind
from cmpd.records import CertificateState
from cmpd.signing import file as signing_file
from cmpd.signing.file import load_key, read_certificates
from cmpd.store import sealing
from cmpd.store.sealing import Sealer
from tests.ocsp import cert_id, request, statuses

ROOT_FILES = {
    "ca.pem": 0o644,
    "cmp.pem": 0o644,
    "cmpd.toml": 0o644,
    "cmpd.db": 0o600,
    "encryption.pem": 0o644,
    "private/ca.key.pem": 0o600,
    "private/cmp.key.pem": 0o600,
    "private/encryption.key.pem": 0o600,
    "private/passphrase": 0o600,
    "private/store.key": 0o600,
}


def openssl(*args: object) -> str:
    done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lint(der: bytes) -> list[str]:
    """What pkilint finds in a certificate at NOTICE or above."""
    validator = pkix.create_pkix_certificate_validator_container(
        pkix.create_decoding_validators(pkix_name.ATTRIBUTE_TYPE_MAPPINGS, pkix_extension.EXTENSION_MAPPINGS),
        [
            pkix.create_issuer_validator_container([]),
            pkix.create_validity_validator_container(),
            pkix.create_subject_validator_container([]),
            pkix.create_extensions_validator_container([]),
            pkix.create_spki_validator_container([]),
        ],
    )
    document = loader.RFC5280CertificateDocumentLoader().load_der_document(der, "certificate", None)
    return [
        f"{found.finding.code} {found.message}"
        for result in validator.validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity <= validation.ValidationFindingSeverity.NOTICE
    ]


def contents(directory: Path) -> dict[str, tuple[int, str]]:
    """Mode and digest of every file, and the modes of the directories."""
    found = {}
    for path in sorted(directory.rglob("*")):
        octets = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(directory))] = (path.stat().st_mode, hashlib.sha256(octets).hexdigest())
    return found


@pytest.fixture(scope="module", autouse=True)
def cheap_derivations() -> Iterator[None]:
    """What guessing a passphrase costs is tested in tests/signing; here it would only cost time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signing_file, "_ITERATIONS", 1000)
        patch.setitem(sealing.SCRYPT, "n", 16)
        yield


@pytest.fixture(scope="module", params=["p256", "p384", "rsa3072", "ed25519"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("root") / "ca"
    make_root(Plan(directory, key=request.param, subject="/C=DE/O=Exämple/OU=a+CN=Test CA"), Env())
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root CA as `cmpd init --dir DIR` makes it."""
    directory = tmp_path_factory.mktemp("made") / "ca"
    make_root(Plan(directory), Env())
    return directory


# --- a root CA -------------------------------------------------------------------------------------------------------


def test_a_root_is_complete_and_private(root: Path):
    files = {
        str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*") if path.is_file()
    }
    assert {name: files[name] & ~0o022 for name in files} == ROOT_FILES
    assert stat.S_IMODE((root / "private").stat().st_mode) == 0o700
    assert list((root / "crl").iterdir()) == []


def test_openssl_verifies_what_a_root_issued(root: Path):
    assert openssl("verify", "-x509_strict", "-check_ss_sig", "-CAfile", root / "ca.pem", root / "ca.pem")
    assert openssl("verify", "-x509_strict", "-CAfile", root / "ca.pem", root / "cmp.pem", root / "encryption.pem")


def test_pkilint_finds_nothing_in_its_certificates(root: Path):
    for name in ("ca.pem", "cmp.pem", "encryption.pem"):
        assert lint(read_certificates(root / name)[0]) == []


def test_pkilint_would_find_something(made: Path):
    without_key_id = read_certificates(made / "ca.pem")[0].replace(b"\x06\x03\x55\x1d\x0e", b"\x06\x03\x55\x1d\x63")
    assert lint(without_key_id) != []


def test_its_files_fit_together(root: Path):
    found = examine(load(root / "cmpd.toml"), Env())
    assert found.mistakes == []
    assert found.notes == []


def test_root_certificate_is_what_a_ca_needs(made: Path):
    ca = x509.load_der_x509_certificate(read_certificates(made / "ca.pem")[0])
    assert ca.version is x509.Version.v3
    assert ca.subject == ca.issuer
    assert ca.subject.rfc4514_string().startswith("CN=cmpd CA ")
    assert 2**118 < ca.serial_number < 2**127
    extensions = {extension.oid._name: (extension.critical, extension.value) for extension in ca.extensions}
    assert list(extensions) == ["basicConstraints", "keyUsage", "subjectKeyIdentifier"]
    assert extensions["basicConstraints"] == (True, x509.BasicConstraints(ca=True, path_length=None))
    critical, usage = extensions["keyUsage"]
    assert critical
    assert usage.key_cert_sign
    assert usage.crl_sign
    assert not usage.digital_signature
    assert not usage.key_encipherment
    assert timedelta(days=7304) < ca.not_valid_after_utc - datetime.now(UTC) < timedelta(days=7306)


def test_cmp_certificate_signs_responses_and_nothing_else(root: Path):
    ca, cmp = (x509.load_der_x509_certificate(read_certificates(root / name)[0]) for name in ("ca.pem", "cmp.pem"))
    assert names.name_text(cmp.subject.public_bytes()) == "OU=a+CN=Test CA CMP,O=Exämple,C=DE".replace("\\c3\\a4", "ä")
    assert cmp.public_key() != ca.public_key()
    assert type(cmp.public_key()) is type(ca.public_key())
    usage = cmp.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    purposes = cmp.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [purpose.dotted_string for purpose in purposes] == ["1.3.6.1.5.5.7.3.27"]
    assert ExtendedKeyUsageOID.CLIENT_AUTH not in purposes
    own_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert cmp.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own_id
    assert timedelta(days=1825) < cmp.not_valid_after_utc - datetime.now(UTC) < timedelta(days=1827)


def test_the_encryption_certificate_is_for_keys_and_nothing_else(root: Path):
    files = [root / name for name in ("ca.pem", "cmp.pem", "encryption.pem")]
    ca, cmp, made = (x509.load_der_x509_certificate(read_certificates(path)[0]) for path in files)
    text = names.name_text(made.subject.public_bytes())
    assert text == "OU=a+CN=Test CA encryption,O=Exämple,C=DE".replace("\\c3\\a4", "ä")
    key = made.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 3072
    usage = made.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value == x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    assert [one.oid._name for one in made.extensions] == ["keyUsage", "subjectKeyIdentifier", "authorityKeyIdentifier"]
    own_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == own_id
    assert abs(made.not_valid_after_utc - cmp.not_valid_after_utc) < timedelta(minutes=1)
    config = load(root / "cmpd.toml")
    assert config.cmp.encryption_key is not None
    load_key(config.cmp.encryption_key, config.ca.passphrase(), read_certificates(root / "encryption.pem")[0])


def test_what_is_published_has_its_places_and_no_door(made: Path):
    config = load(made / "cmpd.toml")
    assert config.crl.model_fields_set == {"directory"}
    assert config.crl.directory == made / "crl"
    assert config.ocsp.model_fields_set == {"signer"}
    assert config.ocsp.signer == made / "private/ocsp.pem"
    assert config.publish.model_fields_set == set()
    assert config.revocation.model_fields_set == set()


def test_the_door_is_opened_when_it_is_asked_for(tmp_path: Path):
    make_root(Plan(tmp_path / "ca", publish="127.0.0.1:8080", base_url="http://pki.example.com"), Env())
    publish = load(tmp_path / "ca/cmpd.toml").publish
    assert publish.model_fields_set == {"listen", "base_url"}
    assert (publish.listen, publish.base_url) == ("127.0.0.1:8080", "http://pki.example.com")
    assert examine(load(tmp_path / "ca/cmpd.toml"), Env()).notes == []


def test_the_configuration_it_writes_holds_the_defaults_and_its_paths(made: Path):
    config = load(made / "cmpd.toml")
    assert config.ca.certificate == made / "ca.pem"
    assert config.ca.passphrase_file == made / "private/passphrase"
    assert config.tcp[0].listen == "127.0.0.1:829"
    assert config.profile["default"].model_fields_set == set()
    assert config.tcp[0].model_fields_set == {"listen"}
    assert Sealer.load(config.store.secrets_key, config.ca.passphrase())


def test_the_directory_can_be_moved(made: Path, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    subprocess.run(["cp", "-a", made, elsewhere], check=True)
    config = load(elsewhere / "cmpd.toml")
    assert config.ca.key == elsewhere / "private/ca.key.pem"
    assert examine(config, Env()).mistakes == []


def test_passphrases_and_names_are_never_the_same_twice(made: Path, tmp_path: Path):
    make_root(Plan(tmp_path / "ca"), Env())
    for name in ("private/passphrase", "ca.pem", "cmp.pem"):
        assert (made / name).read_bytes() != (tmp_path / "ca" / name).read_bytes()
    assert len((made / "private/passphrase").read_bytes()) == 53  # 256 bits in base32


def test_a_given_passphrase_is_named_and_not_copied(tmp_path: Path):
    given = tmp_path / "given"
    given.touch(mode=0o600)
    given.write_bytes(b"my words\n")
    make_root(Plan(tmp_path / "ca", passphrase_file=given), Env())
    assert not (tmp_path / "ca/private/passphrase").exists()
    config = load(tmp_path / "ca/cmpd.toml")
    assert config.ca.passphrase_file == given
    load_key(config.ca.key, b"my words", read_certificates(config.ca.certificate)[0])


def test_no_key_is_written_in_the_clear(made: Path):
    passphrase = (made / "private/passphrase").read_bytes().strip()
    for path in made.rglob("*"):
        if path.is_file() and path.name != "passphrase":
            octets = path.read_bytes()
            assert b"BEGIN PRIVATE KEY" not in octets
            assert b"BEGIN EC PRIVATE" not in octets
            assert passphrase not in octets


# --- what is there stays ---------------------------------------------------------------------------------------------


def test_a_second_run_refuses_and_changes_nothing(made: Path):
    before = contents(made)
    for make in (make_root, make_subordinate):
        with pytest.raises(ConfigError, match=r"cmpd\.toml is there already; nothing was changed"):
            make(Plan(made), Env())
    assert contents(made) == before


@pytest.mark.parametrize("name", ROOT_FILES)
def test_one_file_that_is_there_is_enough_to_refuse(tmp_path: Path, name: str):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, mode=0o700)
    path.write_bytes(b"precious")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="is there already"):
        make_root(Plan(tmp_path), Env())
    assert contents(tmp_path) == before


def test_a_run_that_was_cut_off_is_noticed(tmp_path: Path):
    (tmp_path / ".init").mkdir()
    (tmp_path / ".init/ca.key.pem").write_bytes(b"half")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"\.init is there: another init is running, or was cut off"):
        make_root(Plan(tmp_path), Env())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("moved", [0, 3, 7])
def test_a_run_that_is_cut_off_while_it_moves_files_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
):
    rename, count = Path.rename, iter(range(100))

    def cut_off(self: Path, target: Path) -> Path:
        if next(count) == moved:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cut_off)
        with pytest.raises(KeyboardInterrupt):
            make_root(Plan(tmp_path / "ca"), Env())
    found = {path.name for path in (tmp_path / "ca").rglob("*") if path.is_file()}
    assert found == {Path(name).name for name in ROOT_FILES}
    assert not (tmp_path / "ca/cmpd.toml").exists()  # so nothing can be started with a half of it
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="nothing was changed"):
        make_root(Plan(tmp_path / "ca"), Env())
    assert contents(tmp_path) == before


def test_other_files_in_the_directory_stay(tmp_path: Path):
    (tmp_path / "README").write_text("ours")
    make_root(Plan(tmp_path), Env())
    assert (tmp_path / "README").read_text() == "ours"
    assert not (tmp_path / ".init").exists()


def test_a_failed_run_leaves_nothing(tmp_path: Path):
    class Broken(Exception):
        pass

    calls: Iterator[int] = iter(range(100))

    def random(count: int) -> bytes:
        if next(calls) == 8:
            raise Broken
        return b"r" * count

    with pytest.raises(Broken):
        make_root(Plan(tmp_path / "ca"), Env(random=random))
    assert list(tmp_path.iterdir()) == []


def test_a_private_directory_that_others_can_read_is_refused(tmp_path: Path):
    (tmp_path / "private").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        make_root(Plan(tmp_path), Env())
    assert [path.name for path in tmp_path.iterdir()] == ["private"]


@pytest.mark.parametrize("subject", ["", "/", "CN", "/XY=1", "/C=DEU"])
def test_a_subject_that_is_no_name_for_a_ca_is_refused(tmp_path: Path, subject: str):
    with pytest.raises(ConfigError, match="--subject: "):
        make_root(Plan(tmp_path / "ca", subject=subject), Env())
    assert list(tmp_path.iterdir()) == []


def test_the_passphrase_file_must_be_there(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        make_root(Plan(tmp_path / "ca", passphrase_file=tmp_path / "none"), Env())
    assert list(tmp_path.iterdir()) == []


def test_a_crl_directory_that_is_there_is_used_and_kept_when_init_fails(tmp_path: Path):
    (tmp_path / "crl").mkdir()
    (tmp_path / "crl/index.html").write_text("precious")
    with pytest.raises(ConfigError, match="cannot be read"):
        make_root(Plan(tmp_path, passphrase_file=tmp_path / "none"), Env())
    assert [path.name for path in tmp_path.rglob("*")] == ["crl", "index.html"]
    make_root(Plan(tmp_path), Env())
    assert (tmp_path / "crl/index.html").read_text() == "precious"


def test_a_file_in_place_of_the_crl_directory_is_refused(tmp_path: Path):
    (tmp_path / "crl").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="crl is there already and no directory; nothing was changed"):
        make_root(Plan(tmp_path), Env())
    assert contents(tmp_path) == before


# --- what `cmpd check` says of it -------------------------------------------------------------------------------------


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A root CA that may be spoilt."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def edit(directory: Path, old: str, new: str) -> None:
    text = (directory / "cmpd.toml").read_text()
    assert text.count(old) == 1
    (directory / "cmpd.toml").write_text(text.replace(old, new))


def test_directories_that_the_server_writes_to_must_be_there(copy: Path):
    (copy / "crl").rmdir()
    edit(copy, '"private/ocsp.pem"', '"nowhere/ocsp.pem"')
    found = examine(load(copy / "cmpd.toml"), Env())
    assert found.mistakes == [
        f"crl.directory: there is no directory {copy}/crl",
        f"ocsp.signer: there is no directory {copy}/nowhere",
    ]


def test_directories_that_the_server_writes_to_must_be_writable(copy: Path, monkeypatch: pytest.MonkeyPatch):
    closed = {copy / "crl", copy / "private"}
    monkeypatch.setattr(check.os, "access", lambda path, mode: path not in closed)  # for root everything is writable
    found = examine(load(copy / "cmpd.toml"), Env())
    assert found.mistakes == [
        f"crl.directory: {copy}/crl cannot be written by this user",
        f"ocsp.signer: {copy}/private cannot be written by this user",
    ]


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ('base_url = "http://pki.example.com"', "publish.base_url: set, but publish.listen is not"),
        ('listen = "127.0.0.1:0"', "publish.listen: set, but publish.base_url is not"),
    ],
)
def test_half_a_door_is_worth_a_hint(copy: Path, line: str, note: str):
    edit(copy, "\n[publish]\n", f"\n[publish]\n{line}\n")
    found = examine(load(copy / "cmpd.toml"), Env())
    assert found.mistakes == []
    assert [text.partition(": certificates")[0] for text in found.notes] == [note]


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("encryption.pem", "ca.pem", "cmp.encryption_key: key"),
        ("private/encryption.key.pem", "private/cmp.key.pem", "cmp.encryption_key: key"),
        ("encryption.pem", "private/cmp.key.pem", "cmp.encryption_certificate: certificate"),
    ],
)
def test_an_encryption_certificate_that_does_not_fit_is_a_mistake(copy: Path, one: str, other: str, wanted: str):
    shutil.copy(copy / other, copy / one)
    assert [text for text in examine(load(copy / "cmpd.toml"), Env()).mistakes if text.startswith(wanted)]


def test_a_directory_from_before_there_was_status_is_still_good(copy: Path):
    text = (copy / "cmpd.toml").read_text()
    new = r"^(encryption_certificate|encryption_key|directory|signer) = .*$"
    (copy / "cmpd.toml").write_text(re.sub(new, "", text, flags=re.M))
    (copy / "crl").rmdir()
    for name in ("encryption.pem", "private/encryption.key.pem"):
        (copy / name).unlink()
    config = load(copy / "cmpd.toml")
    assert config.cmp.encryption_certificate is config.crl.directory is config.ocsp.signer is None
    found = examine(config, Env())
    assert (found.mistakes, found.notes) == ([], [])


# --- certificates by themselves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "wanted"),
    [
        ("/O=x", "CN=CMP,O=x"),
        ("/CN=a/CN=b", "CN=b CMP,CN=a"),
        ("/CN=" + "x" * 64, "CN=" + "x" * 60 + " CMP"),
        ("/CN=a+serialNumber=1/O=y", "O=y,serialNumber=1+CN=a CMP"),
    ],
)
def test_subject_of_the_cmp_certificate_follows_the_ca(subject: str, wanted: str):
    key = KEYS["p256"]()
    ca = root_certificate(key, names.encode_name(subject), Env())
    cmp = x509.load_der_x509_certificate(cmp_certificate(KEYS["p256"](), key, ca, Env()))
    assert names.name_text(cmp.subject.public_bytes()) == wanted
    assert cmp.issuer.public_bytes() == names.encode_name(subject)


def test_a_name_with_a_role_is_never_longer_than_a_common_name_may_be():
    made = role_subject(names.encode_name("/CN=" + "x" * 64), "encryption")
    assert names.name_text(made) == "CN=" + "x" * 53 + " encryption"


def test_the_cmp_key_is_of_the_cas_kind():
    p521 = same_kind(ec.generate_private_key(ec.SECP521R1()))
    assert isinstance(p521, ec.EllipticCurvePrivateKey)
    assert p521.curve.name == "secp521r1"
    small = same_kind(rsa.generate_private_key(65537, 2048))
    assert isinstance(small, rsa.RSAPrivateKey)
    assert small.key_size == 3072
    assert isinstance(same_kind(ed448.Ed448PrivateKey.generate()), ed448.Ed448PrivateKey)


def test_a_clock_and_a_counter_give_the_same_certificate():
    key = KEYS["ed25519"]()  # the only kind whose signatures are the same each time
    env = Env(now=lambda: 1_800_000_000.5, random=lambda count: bytes(range(count)))
    name = names.encode_name("/CN=x")
    assert root_certificate(key, name, env) == root_certificate(key, name, env)


# --- a subordinate CA ------------------------------------------------------------------------------------------------

V3_CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"


class Above:
    """A root and an intermediate CA made by OpenSSL."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        root = (directory / "root.key", directory / "root.pem")
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", root[0])
        openssl("req", "-x509", "-new", "-key", root[0], "-subj", "/CN=Root", "-days", 30, "-out", root[1],
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
        openssl("genpkey", "-algorithm", "ED25519", "-out", directory / "middle.key")
        openssl(
            "req", "-new", "-key", directory / "middle.key", "-subj", "/CN=Middle", "-out", directory / "middle.csr"
        )
        self.sign("root", "middle", directory / "middle.csr")

    def sign(self, issuer: str, name: str, request: Path, extensions: str = V3_CA) -> Path:
        config, out = self.directory / f"{name}.cnf", self.directory / f"{name}.pem"
        config.write_text(extensions)
        openssl("x509", "-req", "-in", request, "-CA", self.directory / f"{issuer}.pem", "-days", 20, "-out", out,
                "-CAkey", self.directory / f"{issuer}.key", "-extfile", config, "-CAcreateserial")  # fmt: skip
        return out

    def chain(self, *names_of: str) -> Path:
        path = self.directory / ("-".join(names_of) + ".chain")
        path.write_bytes(b"".join((self.directory / f"{name}.pem").read_bytes() for name in names_of))
        return path


@pytest.fixture(scope="module")
def above(tmp_path_factory: pytest.TempPathFactory) -> Above:
    return Above(tmp_path_factory.mktemp("above"))


@pytest.fixture
def subordinate(tmp_path: Path) -> Path:
    make_subordinate(Plan(tmp_path / "sub", subject="/O=x/CN=Sub"), Env())
    return tmp_path / "sub"


def test_a_subordinate_ca_is_made_from_the_answer_of_the_ca_above(subordinate: Path, above: Above):
    assert (
        "verify OK"
        in subprocess.run(
            ["openssl", "req", "-in", subordinate / "ca.csr", "-verify", "-noout"], capture_output=True, text=True
        ).stderr
    )
    shown = openssl("req", "-in", subordinate / "ca.csr", "-noout", "-text")
    assert "CA:TRUE" in shown
    assert "Certificate Sign, CRL Sign" in shown
    unfinished = examine(load(subordinate / "cmpd.toml"), Env())
    assert any("cmpd init --install-certificate" in line for line in unfinished.mistakes)

    answer = above.sign("middle", "sub", subordinate / "ca.csr")
    install_certificate(subordinate, answer, above.chain("root", "middle"), Env())
    config = load(subordinate / "cmpd.toml")
    assert read_certificates(config.ca.certificate) == read_certificates(answer)
    assert config.ca.chain is not None
    assert read_certificates(config.ca.chain) == read_certificates(above.chain("middle", "root"))
    assert read_certificates(subordinate / "ca.pem") == read_certificates(above.directory / "root.pem")
    assert openssl("verify", "-x509_strict", "-CAfile", subordinate / "ca.pem", "-untrusted", config.ca.chain,
                   "-untrusted", config.ca.certificate, config.cmp.certificate)  # fmt: skip
    assert lint(read_certificates(config.cmp.certificate)[0]) == []
    assert config.cmp.encryption_certificate is not None
    assert openssl("verify", "-x509_strict", "-CAfile", subordinate / "ca.pem", "-untrusted", config.ca.chain,
                   "-untrusted", config.ca.certificate, config.cmp.encryption_certificate)  # fmt: skip
    assert lint(read_certificates(config.cmp.encryption_certificate)[0]) == []
    found = examine(config, Env())
    assert found.mistakes == []
    assert any("ends at" in line for line in found.notes)  # 20 days are few
    before = contents(subordinate)
    with pytest.raises(ConfigError, match="is there already; nothing was changed"):
        install_certificate(subordinate, answer, above.chain("root", "middle"), Env())
    assert contents(subordinate) == before


def test_a_ca_above_need_not_sign_crls_itself(subordinate: Path, above: Above):
    above.sign("root", "middle", above.directory / "middle.csr", NO_CRLS)
    answer = above.sign("middle", "sub", subordinate / "ca.csr")
    install_certificate(subordinate, answer, above.chain("middle", "root"), Env())
    above.sign("root", "middle", above.directory / "middle.csr")
    assert examine(load(subordinate / "cmpd.toml"), Env()).mistakes == []


def test_check_and_the_start_say_that_a_ca_may_not_sign_crls(
    subordinate: Path, above: Above, caplog: pytest.LogCaptureFixture
):
    answer = above.sign("root", "sub", subordinate / "ca.csr")
    install_certificate(subordinate, answer, above.chain("root"), Env())
    config = load(subordinate / "cmpd.toml")
    assert serve_shortly(config) == []
    assert "cRLSign" not in caplog.text
    without = above.sign("root", "sub", subordinate / "ca.csr", NO_CRLS)
    config.ca.certificate.write_bytes(without.read_bytes())
    [mistake] = examine(config, Env()).mistakes
    assert mistake.startswith("ca.certificate: ")
    assert "its keyUsage has no cRLSign" in mistake
    serve_shortly(config)
    assert "ca.certificate: its keyUsage has no cRLSign" in caplog.text


def serve_shortly(config: Config) -> list[bytes]:
    """What the store knows as certificates of roots while the daemon is assembled."""

    async def check() -> list[bytes]:
        daemon = await assemble(config, Env())
        found = [one.serial for one in await daemon.store.service_certificates("ca")]
        statuses = await daemon.store.certificate_status(found)
        await daemon.stop()
        return [serial for serial in found if statuses[serial].state is CertificateState.CONFIRMED]

    return asyncio.run(check())


def test_a_root_knows_its_own_certificate_as_good(copy: Path):
    config = load(copy / "cmpd.toml")
    own = outline(read_certificates(config.ca.certificate)[0])
    for _ in range(2):
        assert serve_shortly(config) == [own.serial]


async def test_answers_of_ocsp_and_signatures_of_the_ca_do_not_wait_for_each_other(tmp_path: Path):
    make_root(Plan(tmp_path / "ca", key="rsa3072", publish="127.0.0.1:0"), Env())
    daemon = await assemble(load(tmp_path / "ca" / "cmpd.toml"), Env())
    go = threading.Event()
    try:
        await daemon.publishing.start()
        assert daemon.publishing._responder is not None
        ca = daemon.service.ca
        asked = request(cert_id(ca, outline(ca.certificate).serial))
        busy = [asyncio.ensure_future(daemon.offloaders[0](go.wait)) for _ in range(2)]
        async with asyncio.timeout(20):
            assert statuses(await daemon.publishing._responder.respond(asked)) == ["good"]
        go.set()
        await asyncio.gather(*busy)
        go.clear()
        many = [asyncio.ensure_future(daemon.publishing._ocsp_signing(go.wait)) for _ in range(256)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await ca.sign_tbs(b"0\0")
            assert not (await daemon.publishing._responder.respond(asked)).successful  # tryLater, not a longer queue
        go.set()
        await asyncio.gather(*many)
    finally:
        go.set()
        await daemon.stop()
    assert not [one.name for one in threading.enumerate() if one.name.startswith("cmpd-ocsp") and alive_soon(one)]


def alive_soon(thread: threading.Thread) -> bool:
    thread.join(5)
    return thread.is_alive()


def test_the_chain_may_be_in_the_same_file(subordinate: Path, above: Above):
    above.sign("root", "sub", subordinate / "ca.csr")
    install_certificate(subordinate, above.chain("sub", "root"), None, Env())
    assert read_certificates(subordinate / "ca.pem") == read_certificates(above.directory / "root.pem")


NO_CA = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
NO_SIGN = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,cRLSign\n"
NO_CRLS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"


@pytest.mark.parametrize(
    ("extensions", "wanted"),
    [
        (NO_CA, "want CA:TRUE and keyCertSign"),
        (NO_SIGN, "want CA:TRUE and keyCertSign"),
        (NO_CRLS, "CN=Sub,O=x does not allow to sign CRLs: want cRLSign in keyUsage"),
        ("", "is not that of a CA: want basicConstraints and keyUsage"),
    ],
)
def test_a_certificate_that_is_not_a_cas_is_refused(subordinate: Path, above: Above, extensions: str, wanted: str):
    answer = above.sign("root", "sub", subordinate / "ca.csr", extensions)
    before = contents(subordinate)
    with pytest.raises(ConfigError, match=wanted):
        install_certificate(subordinate, answer, above.chain("root"), Env())
    assert contents(subordinate) == before


def test_a_path_without_its_root_is_refused(subordinate: Path, above: Above):
    answer = above.sign("middle", "sub", subordinate / "ca.csr")
    with pytest.raises(ConfigError, match="the certificate of CN=Root is missing"):
        install_certificate(subordinate, answer, above.chain("middle"), Env())


def test_the_certificate_of_another_key_is_refused(subordinate: Path, above: Above):
    with pytest.raises(ConfigError, match="is not the key of the certificate"):
        install_certificate(subordinate, above.directory / "middle.pem", above.chain("root"), Env())


def test_a_root_cannot_be_installed(subordinate: Path, above: Above):
    with pytest.raises(ConfigError, match="is self-signed"):
        install_certificate(subordinate, above.directory / "root.pem", None, Env())


def test_a_path_that_is_too_long_for_the_ca_above_is_refused(subordinate: Path, above: Above):
    above.sign("root", "middle", above.directory / "middle.csr", V3_CA.replace("CA:TRUE", "CA:TRUE,pathlen:0"))
    answer = above.sign("middle", "sub", subordinate / "ca.csr")
    with pytest.raises(ConfigError, match="CN=Middle allows 0 CAs below it"):
        install_certificate(subordinate, answer, above.chain("middle", "root"), Env())
    above.sign("root", "middle", above.directory / "middle.csr", V3_CA.replace("CA:TRUE", "CA:TRUE,pathlen:1"))
    install_certificate(subordinate, answer, above.chain("middle", "root"), Env())


def test_an_expired_certificate_is_refused(subordinate: Path, above: Above):
    answer = above.sign("root", "sub", subordinate / "ca.csr")
    later = Env(now=lambda: datetime.now(UTC).timestamp() + 21 * 86400)
    with pytest.raises(ConfigError, match="CN=Sub,O=x is not valid now"):
        install_certificate(subordinate, answer, above.chain("root"), later)


def test_what_is_no_subordinate_cannot_take_a_certificate_in(made: Path, above: Above):
    with pytest.raises(ConfigError, match="a subordinate CA needs it"):
        install_certificate(made, above.directory / "middle.pem", above.chain("root"), Env())
