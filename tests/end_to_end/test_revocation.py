"""`openssl cmp -cmd rr` changes the state of certificates; `openssl verify` and `openssl ocsp` see it at once.

One server for all; each test has certificates of its own. What is published is fetched over HTTP as anybody would.
"""

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from tests.bridge import ThreadBridge
from tests.end_to_end.doors import wait_until
from tests.support import Installation, Server, cmpd, needs_openssl, new_key, run

pytestmark = needs_openssl

SECONDS = 15
"""How long a new CRL is waited for."""

REASONS = {
    0: "unspecified",
    1: "keyCompromise",
    3: "affiliationChanged",
    4: "superseded",
    5: "cessationOfOperation",
    9: "privilegeWithdrawn",
    10: "aACompromise",
}
"""What revokes for good and anybody may say, by number."""


@dataclass
class Holder:
    """A certificate and its key."""

    certificate: Path
    key: Path

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())

    @property
    def serial(self) -> str:
        return f"{self.parsed.serial_number:x}"


@dataclass
class Site:
    installation: Installation
    server: Server
    bridge: ThreadBridge
    directory: Path
    made: int = 0

    def openssl(self, *arguments: str | Path, ok: bool = True) -> str:
        """Run `openssl cmp`; returns what it printed. Without `ok` it must fail."""
        address = f"127.0.0.1:{self.bridge.port}"
        done = run(["openssl", "cmp", "-config", "", "-server", address, "-path", "x", *arguments], ok=False)
        printed = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, f"{arguments}\n{printed}\n{self.server.log_text()[-3000:]}"
        return printed

    def enrol(self, reference: str = "device", subject: str = "/O=Test/CN=device") -> Holder:
        self.made += 1
        key = new_key(self.directory / f"{self.made}.key", "p256")
        certificate = self.directory / f"{self.made}.pem"
        options = ["-cmd", "ir", "-newkey", key, "-subject", subject, "-certout", certificate, "-implicit_confirm"]
        self.openssl(*options, *self.mac(reference))
        return Holder(certificate, key)

    def mac(self, reference: str) -> list[str | Path]:
        return ["-ref", reference, "-secret", f"file:{self.installation.directory / reference}.secret"]

    def rr(
        self, target: Holder, reason: int | None, by: Holder | str | None = None, *options: str, ok: bool = True
    ) -> str:
        """Ask for a change of `target`, by itself, by another certificate or under a shared secret."""
        by = by or target
        who = self.mac(by) if isinstance(by, str) else ["-cert", by.certificate, "-key", by.key, "-trusted"]
        anchor = [] if isinstance(by, str) else [self.installation.anchor]
        said = [] if reason is None else ["-revreason", str(reason)]
        return self.openssl("-cmd", "rr", "-oldcert", target.certificate, *said, *who, *anchor, *options, ok=ok)

    # --- what everybody sees -------------------------------------------------------------------------------------

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(self.server.publish + path, timeout=20) as answer:
            octets: bytes = answer.read()
            return octets

    def crl(self, name: str = "ca.crl") -> x509.CertificateRevocationList:
        return x509.load_der_x509_crl(self.fetch(f"/{name}"))

    def entry(self, holder: Holder, name: str = "ca.crl") -> x509.RevokedCertificate | None:
        return self.crl(name).get_revoked_certificate_by_serial_number(holder.parsed.serial_number)

    def ocsp(self, holder: Holder, *, get: bool = False) -> str:
        """What `openssl ocsp` prints after the certificate's name, on one line."""
        anchor = self.installation.anchor
        names = ["-issuer", anchor, "-cert", holder.certificate, "-CAfile", anchor]
        if get:
            request, response = self.directory / "ocsp.req", self.directory / "ocsp.resp"
            run(["openssl", "ocsp", "-issuer", anchor, "-cert", holder.certificate, "-no_nonce", "-reqout", request])
            encoded = run(["openssl", "base64", "-A", "-in", request]).stdout.strip()
            response.write_bytes(self.fetch(f"/ocsp/{urllib.request.quote(encoded, safe='')}"))
            done = run(["openssl", "ocsp", *names, "-no_nonce", "-respin", response])
        else:
            done = run(["openssl", "ocsp", *names, "-url", f"{self.server.publish}/ocsp"])
        printed = done.stdout + done.stderr
        assert "Response verify OK" in printed, printed
        assert "WARNING" not in printed, printed
        said = printed[printed.index(f"{holder.certificate}: ") + len(f"{holder.certificate}: ") :]
        return " ".join(said.split())

    def seen(self, holder: Holder, wanted: str) -> None:
        """OCSP says it at once, by POST and GET; the CRL after a moment, and then `openssl verify` does."""
        for get in (False, True):
            said = self.ocsp(holder, get=get)
            assert said.startswith(wanted), said
        wait_until(lambda: (self.entry(holder) is None) is (wanted == "good"), SECONDS)
        file = self.directory / "ca.crl"
        file.write_bytes(self.fetch("/ca.crl"))
        command = ["openssl", "verify", "-x509_strict", "-crl_check", "-CAfile", self.installation.anchor]
        done = run([*command, "-CRLfile", file, holder.certificate], ok=False)
        printed = done.stdout + done.stderr
        assert (done.returncode == 0) is (wanted == "good"), printed
        if wanted != "good":
            assert "certificate revoked" in printed

    def record(self, holder: Holder) -> dict[str, object]:
        done = cmpd("cert", "show", holder.serial, "--config", self.installation.config, "--json")
        found: dict[str, object] = json.loads(done.stdout)[0]
        return found


def install(tmp_path_factory: pytest.TempPathFactory, *options: str) -> Installation:
    """With a door for what is published, and a CRL for each change."""
    installation = Installation.make(tmp_path_factory.mktemp("ca") / "var", "--publish", "127.0.0.1:0", *options)
    installation.configure('#gather = "1s"', 'gather = "0s"')
    return installation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    installation = install(tmp_path_factory)
    installation.add_secret("device", "a secret of the tests", "--uses", "unlimited")
    installation.add_secret("other", "a secret of another one", "--uses", "unlimited")
    installation.add_secret("entitled", "a secret that may revoke", "--uses", "unlimited", "--may-revoke")
    with installation.serving() as server, ThreadBridge(server.host, server.port) as bridge:
        site = Site(installation, server, bridge, tmp_path_factory.mktemp("holders"))
        ra = site.enrol("other", "/O=Test/CN=RA")
        cmpd("entity", "add", "ra", "--config", installation.config, "--cert", ra.certificate, "--ra")
        yield site
    assert "Traceback" not in server.log_text()


@pytest.fixture(scope="module")
def ra(site: Site) -> Holder:
    return Holder(site.directory / "1.pem", site.directory / "1.key")


# --- revoking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "name"), [(None, "unspecified"), *REASONS.items()])
def test_a_holder_revokes_its_certificate_and_everybody_sees_the_reason(
    site: Site, number: int | None, name: str
) -> None:
    holder = site.enrol()
    site.seen(holder, "good")
    site.rr(holder, number)
    site.seen(holder, "revoked")
    said = site.ocsp(holder)
    entry = site.entry(holder)
    assert entry is not None
    if name == "unspecified":  # RFC 5280 section 5.3.1: left out instead of said
        assert "Reason" not in said
        assert list(entry.extensions) == []
    else:
        assert "Reason: " in said
        by_get = ocsp.load_der_ocsp_response((site.directory / "ocsp.resp").read_bytes())
        assert by_get.revocation_reason is not None
        assert by_get.revocation_reason.value == name  # OpenSSL 3.0 has no names for 9 and 10
        assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value == name
    assert site.record(holder)["state"] == "revoked"


def test_ca_compromise_is_for_an_operator_to_say(site: Site) -> None:
    holder = site.enrol()
    assert "notAuthorized" in site.rr(holder, 2, ok=False)
    site.seen(holder, "good")
    cmpd("cert", "revoke", holder.serial, "--config", site.installation.config, "--reason", "cACompromise")
    site.seen(holder, "revoked")
    assert "Reason: cACompromise" in site.ocsp(holder)


def test_what_is_revoked_is_refused_with_certrevoked(site: Site, ra: Holder) -> None:
    holder = site.enrol()
    site.rr(holder, 1)
    assert "certRevoked" in site.rr(holder, 1, ra, ok=False)
    assert "certRevoked" in site.rr(holder, 4, ok=False)
    assert "certRevoked" in site.rr(holder, 6, ra, ok=False)
    assert "certRevoked" in site.rr(holder, 8, ra, ok=False)
    assert site.record(holder)["reason"] == "keyCompromise"


def test_a_certificate_of_another_ca_is_refused_with_wrongauthority(site: Site, ra: Holder, tmp_path: Path) -> None:
    key, certificate = new_key(tmp_path / "key", "p256"), tmp_path / "cert.pem"
    run(["openssl", "req", "-x509", "-config", "/dev/null", "-key", key, "-subj", "/CN=elsewhere", "-out", certificate])
    assert "wrongAuthority" in site.rr(Holder(certificate, key), 1, ra, ok=False)


# --- suspending and resuming ------------------------------------------------------------------------------------------


def test_a_suspended_certificate_is_resumed_and_good_again(site: Site, ra: Holder) -> None:
    holder = site.enrol()
    site.rr(holder, 6, ra)
    site.seen(holder, "revoked")
    assert "Reason: certificateHold" in site.ocsp(holder)
    entry = site.entry(holder)
    assert entry is not None
    assert entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.certificate_hold
    site.rr(holder, 8, ra)
    site.seen(holder, "good")
    delta = site.entry(holder, "delta.crl")
    assert delta is not None
    assert delta.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.remove_from_crl
    assert site.record(holder)["state"] == "confirmed"
    states = [change["state"] for change in site.record(holder)["history"]]
    assert states == ["suspended", "confirmed"]


def test_a_suspended_certificate_is_revoked_for_good(site: Site, ra: Holder) -> None:
    holder = site.enrol()
    site.rr(holder, 6)
    site.rr(holder, 1, ra)
    site.seen(holder, "revoked")
    assert "Reason: keyCompromise" in site.ocsp(holder)
    assert "certRevoked" in site.rr(holder, 8, ra, ok=False)


def test_what_is_not_suspended_is_not_resumed(site: Site, ra: Holder) -> None:
    holder = site.enrol()
    assert "badRequest" in site.rr(holder, 8, ra, ok=False)
    site.seen(holder, "good")


def test_a_suspended_certificate_authorises_nothing_not_even_its_own_resumption(site: Site, tmp_path: Path) -> None:
    holder, fellow = site.enrol(), site.enrol()
    site.rr(holder, 6)
    assert "notAuthorized" in site.rr(holder, 8, ok=False)
    assert "notAuthorized" in site.rr(fellow, 1, holder, ok=False)
    who = ["-cert", holder.certificate, "-key", holder.key, "-trusted", site.installation.anchor]
    new = ["-newkey", new_key(tmp_path / "key", "p256"), "-certout", tmp_path / "cert.pem"]
    assert "signerNotTrusted" in site.openssl("-cmd", "kur", *new, *who, ok=False)
    site.rr(holder, 8, fellow)
    site.seen(holder, "good")


def test_a_suspended_certificate_resumes_itself_where_the_policy_says_so(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    installation = install(tmp_path_factory)
    installation.configure("#suspended_may_resume_itself = false", "suspended_may_resume_itself = true")
    installation.add_secret("device", "a secret of the tests")
    with installation.serving() as server, ThreadBridge(server.host, server.port) as bridge:
        site = Site(installation, server, bridge, tmp_path_factory.mktemp("holders"))
        holder = site.enrol()
        site.rr(holder, 6)
        site.seen(holder, "revoked")
        site.rr(holder, 8)
        site.seen(holder, "good")
        cmpd("cert", "suspend", holder.serial, "--config", installation.config)
        assert "notAuthorized" in site.rr(holder, 8, ok=False)


# --- who may ----------------------------------------------------------------------------------------------------------


def test_another_certificate_of_the_same_entity_may_revoke(site: Site) -> None:
    holder, fellow = site.enrol(), site.enrol()
    site.rr(holder, 4, fellow)
    site.seen(holder, "revoked")
    site.seen(fellow, "good")


def test_a_certificate_of_another_entity_may_not_revoke(site: Site) -> None:
    holder, stranger = site.enrol(), site.enrol("other")
    assert "notAuthorized" in site.rr(holder, 4, stranger, ok=False)
    site.seen(holder, "good")


def test_a_shared_secret_revokes_only_where_the_operator_allowed_it(site: Site) -> None:
    holder, entitled = site.enrol(), site.enrol("entitled")
    assert "wrongIntegrity" in site.rr(holder, 4, "device", ok=False)
    assert "notAuthorized" in site.rr(holder, 4, "entitled", ok=False)
    site.seen(holder, "good")
    site.rr(entitled, 4, "entitled")
    site.seen(entitled, "revoked")


def test_a_kur_with_a_revoked_certificate_is_refused(site: Site, tmp_path: Path) -> None:
    holder = site.enrol()
    site.rr(holder, 5)
    who = ["-cert", holder.certificate, "-key", holder.key, "-trusted", site.installation.anchor]
    new = ["-newkey", new_key(tmp_path / "key", "p256"), "-certout", tmp_path / "cert.pem"]
    assert "signerNotTrusted" in site.openssl("-cmd", "kur", *new, *who, ok=False)


# --- by operators, by time --------------------------------------------------------------------------------------------


def test_an_operator_changes_states_while_the_server_runs(site: Site) -> None:
    holder, config = site.enrol(), site.installation.config
    cmpd("cert", "suspend", holder.serial, "--config", config)
    site.seen(holder, "revoked")
    cmpd("cert", "resume", holder.serial, "--config", config)
    site.seen(holder, "good")
    when = ["--reason", "keyCompromise", "--invalidity-date", "2026-01-02T03:04:05Z"]
    cmpd("cert", "revoke", holder.serial, "--config", config, *when)
    site.seen(holder, "revoked")
    entry = site.entry(holder)
    assert entry is not None
    date = entry.extensions.get_extension_for_class(x509.InvalidityDate).value.invalidity_date_utc
    assert date.isoformat() == "2026-01-02T03:04:05+00:00"
    assert cmpd("cert", "resume", holder.serial, "--config", config, ok=False).returncode == 1


def test_what_is_not_confirmed_in_time_is_revoked_and_published(tmp_path_factory: pytest.TempPathFactory) -> None:
    installation = install(tmp_path_factory)
    installation.configure('#confirm_wait = "10m"', 'confirm_wait = "1s"')
    installation.add_secret("device", "a secret of the tests")
    with installation.serving() as server, ThreadBridge(server.host, server.port) as bridge:
        site = Site(installation, server, bridge, tmp_path_factory.mktemp("holders"))
        key, certificate = new_key(site.directory / "key", "p256"), site.directory / "cert.pem"
        options = ["-cmd", "ir", "-newkey", key, "-subject", "/CN=device", "-certout", certificate]
        site.openssl(*options, "-disable_confirm", *site.mac("device"))
        holder = Holder(certificate, key)
        wait_until(lambda: site.entry(holder) is not None, SECONDS)
        assert "Reason: cessationOfOperation" in site.ocsp(holder)


def test_an_expired_certificate_is_told_to_be_expired(tmp_path_factory: pytest.TempPathFactory) -> None:
    installation = install(tmp_path_factory)
    installation.configure('#validity = "365d"', 'validity = "4s"')
    installation.configure('#backdate = "5m"', 'backdate = "0s"')
    installation.add_secret("device", "a secret of the tests")
    with installation.serving() as server, ThreadBridge(server.host, server.port) as bridge:
        site = Site(installation, server, bridge, tmp_path_factory.mktemp("holders"))
        holder = site.enrol()
        assert site.record(holder)["state"] == "confirmed"
        wait_until(lambda: site.record(holder)["state"] == "expired", SECONDS)
        config = installation.config
        refused = cmpd("cert", "revoke", holder.serial, "--config", config, ok=False)
        assert refused.returncode == 1
        assert "expired" in refused.stderr
        listed = json.loads(cmpd("cert", "list", "--state", "expired", "--config", config, "--json").stdout)
        assert [row["serial"].lower() for row in listed] == [site.record(holder)["serial"].lower()]


# --- what is published ------------------------------------------------------------------------------------------------


def test_a_serial_number_that_was_never_issued_is_unknown(site: Site) -> None:
    anchor = site.installation.anchor
    command = ["openssl", "ocsp", "-issuer", anchor, "-serial", "0x41424344", "-CAfile", anchor]
    assert "0x41424344: unknown" in run([*command, "-url", f"{site.server.publish}/ocsp"]).stdout


def test_several_certificates_are_asked_for_in_one_ocsp_request(site: Site) -> None:
    first, second = site.enrol(), site.enrol()
    site.rr(second, 1)
    anchor = site.installation.anchor
    command = ["openssl", "ocsp", "-issuer", anchor, "-cert", first.certificate, "-cert", second.certificate]
    printed = run([*command, "-CAfile", anchor, "-url", f"{site.server.publish}/ocsp"]).stdout
    assert f"{first.certificate}: good" in printed
    assert f"{second.certificate}: revoked" in printed


def test_certificates_name_the_places_of_the_public_url(tmp_path_factory: pytest.TempPathFactory) -> None:
    installation = install(tmp_path_factory, "--base-url", "http://pki.example.com")
    installation.add_secret("device", "a secret of the tests")
    with installation.serving() as server, ThreadBridge(server.host, server.port) as bridge:
        site = Site(installation, server, bridge, tmp_path_factory.mktemp("holders"))
        holder = site.enrol()
        text = run(["openssl", "x509", "-in", holder.certificate, "-noout", "-text"]).stdout
        assert re.search(r"CRL Distribution Points:\s+Full Name:\s+URI:http://pki.example.com/ca.crl", text)
        assert "OCSP - URI:http://pki.example.com/ocsp" in text
        assert "CA Issuers - URI:http://pki.example.com/ca.cer" in text
        site.seen(holder, "good")
        site.rr(holder, 1)
        site.seen(holder, "revoked")
        anchor = x509.load_pem_x509_certificate(installation.anchor.read_bytes())
        assert x509.load_der_x509_certificate(site.fetch("/ca.cer")) == anchor


def test_crl_numbers_only_grow_also_over_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    installation = install(tmp_path_factory)
    numbers = []
    directory = tmp_path_factory.mktemp("holders")
    for _ in range(2):
        with installation.serving() as server, ThreadBridge(server.host, server.port) as bridge:
            site = Site(installation, server, bridge, directory)
            cmpd("crl", "issue", "--config", installation.config)
            numbers.append(site.crl().extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        cmpd("crl", "issue", "--config", installation.config)
        shown = json.loads(cmpd("crl", "show", "--config", installation.config, "--json").stdout)
        numbers.append(shown["number"])
    assert numbers == sorted(set(numbers))
