"""Who gets in, over TLS, as people and workers do it: init, login, tokens, enrolment, revocation, audit."""
import json
import re
import socket
import ssl
import stat
import subprocess

from processes import ENVIRONMENT, EXAMPLES, SMALL, BitrungTest, command

LADDER = EXAMPLES / "bit-ladder.yaml"
SECRET = re.compile(rb"bitrung_[0-9a-f]{16}_[0-9a-f]{64}")


class SecurityTest(BitrungTest):
    def setUp(self):
        super().setUp()
        self.init_server()
        self.server, self.address = self.start_server(address="127.0.0.1:0")

    def person(self, name, *arguments, expect=0, **options):
        """Runs a command as a person with a home, and so a saved login, of her own."""
        home = self.directory / f"home-{name}"
        home.mkdir(exist_ok=True)
        return self.bitrung(*arguments, state=False, expect=expect, cwd=home,
                            env={"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_STATE_HOME": ""}, **options)

    def let_in(self, name, role):
        file = self.directory / f"{name}.login"
        self.person("admin", "token", "create", name, "--role", role, "--out", file)
        self.person(name, "login", file, "--server", self.address)
        return file

    def secrets_of(self, *files):
        return {SECRET.search(file.read_bytes()).group() for file in files}

    def test_AStudy_FromInitToRevocation(self):
        admin_file = self.state / "admin.login"
        who = self.person("admin", "login", admin_file, "--server", self.address, "--output", "json").stdout
        self.assertEqual((json.loads(who)["name"], json.loads(who)["role"]), ("admin", "admin"))
        anna_file = self.let_in("anna", "submitter")
        berta_file = self.let_in("berta", "submitter")

        # A worker is let in by its certificate, once.
        enrolment = self.directory / "gpu1.enrolment"
        self.person("admin", "enrol", "gpu1", "--out", enrolment)
        enrol = lambda where: subprocess.run(
            command("bitrung-worker", "enrol", enrolment, "--server", self.address, "--state-dir", self.directory / where),
            capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
        enrolment_secret = self.secrets_of(enrolment)
        self.assertEqual(enrol("worker-gpu1").returncode, 0)
        second = enrol("worker-thief")
        self.assertEqual(second.returncode, 1)
        self.assertIn("used already", second.stderr)
        worker = self.start_worker(self.address, "gpu1", "--slots", "1")

        # Anna's study is hers: she cancels it, Berta does not.
        self.person("anna", "submit", LADDER, *SMALL)
        self.assertEqual(json.loads(self.person("anna", "list", "-o", "json").stdout)["experiments"][0]["submitted_by"], "anna")
        refused = self.person("berta", "cancel", "bit-ladder", expect=5)
        self.assertIn("was submitted by anna", refused.stderr)
        self.assertIn("wants role operator", self.person("berta", "drain", "gpu1", expect=5).stderr)
        self.assertIn("wants role admin", self.person("berta", "token", "list", expect=5).stderr)
        self.wait_until(lambda: self.query("select 1 from job where state = 'succeeded'"), "a job succeeds on the enrolled worker")
        self.person("anna", "cancel", "bit-ladder")

        # What is revoked is out at once.
        tokens = json.loads(self.person("admin", "token", "list", "-o", "json").stdout)["tokens"]
        berta = next(token["id"] for token in tokens if token["name"] == "berta")
        self.person("admin", "token", "revoke", berta)
        self.assertIn("revoked", self.person("berta", "list", expect=4).stderr)
        self.person("admin", "enrol", "gpu1", "--revoke")
        worker.errors.wait_for("certificate", 30)

        # The audit log has it all, and cannot be changed.
        entries = json.loads(self.person("admin", "audit", "-o", "json").stdout)["entries"]
        seen = [(entry["name"], entry["method"].split("/")[-1], entry["subject"]) for entry in reversed(entries)]
        for expected in [("owner", "init", "127.0.0.1:7420"), ("admin", "CreateToken", "anna as submitter"),
                         ("admin", "CreateEnrolment", "gpu1"), ("anna", "SubmitExperiment", "bit-ladder"),
                         ("anna", "CancelExperiment", "bit-ladder"), ("admin", "RevokeToken", berta),
                         ("admin", "RevokeWorker", "gpu1")]:
            self.assertIn(expected, seen)

        # No secret is in a log, in a database, or in a file that others may read.
        secrets = self.secrets_of(admin_file, anna_file, berta_file) | enrolment_secret
        keys = {line for file in self.directory.rglob("*.key") for line in file.read_bytes().splitlines() if len(line) > 60}
        for file in self.directory.rglob("*"):
            if not file.is_file():
                continue
            content = file.read_bytes()
            if any(secret in content for secret in secrets) or any(key in content for key in keys):
                self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600, file)
                self.assertIn(file.suffix, (".login", ".enrolment", ".key", ""), file)
        said = "\n".join(self.server.errors.seen + worker.errors.seen).encode()
        self.assertFalse([secret for secret in secrets if secret in said])

    def test_TheWire_IsTls13_AndTheServerIsWhoItSays(self):
        host, port = self.address.split(":")

        def version(minimum, maximum, authority):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version, context.maximum_version = minimum, maximum
            context.load_verify_locations(authority)
            context.set_alpn_protocols(["h2"])
            with socket.create_connection((host, int(port)), timeout=30) as plain:
                with context.wrap_socket(plain, server_hostname=host) as secure:
                    return secure.version()

        authority = self.state / "auth" / "authority.pem"
        self.assertEqual(version(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3, authority), "TLSv1.3")
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            version(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2, authority)
        self.init_server(self.directory / "other")
        with self.assertRaises(ssl.SSLCertVerificationError):
            version(ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3, self.directory / "other" / "auth" / "authority.pem")

    def test_NobodyWithoutALogin_AndNoListenerWithoutAnAuthority(self):
        self.assertIn("wants a login", self.person("nobody", "list", "--server", self.address, expect=4).stderr)
        readable = self.directory / "readable.login"
        readable.write_bytes((self.state / "admin.login").read_bytes())
        readable.chmod(0o640)
        self.assertIn("chmod 600", self.person("nobody", "list", "--login", readable, "--server", self.address, expect=5).stderr)
        worker = self.start("bitrung-worker", "--server", self.address, "--state-dir", self.directory / "w", "--name", "w")
        code, _, err = self.finish(worker, 60)
        self.assertEqual(code, 1)
        self.assertIn("bitrung-worker enrol FILE", err)
        bare = self.start("bitrung-server", "--state-dir", self.directory / "bare", "--listen", "127.0.0.1:0")
        code, _, err = self.finish(bare, 60)
        self.assertEqual(code, 1)
        self.assertIn("bitrung-server init", err)

    def test_ALostAdminToken_IsReplacedByTheOwner(self):
        socket_address = f"unix:{self.state}/server.sock"
        self.server.terminate()
        self.server.wait(timeout=30)
        self.start_server("--listen", self.address, address=socket_address)
        file = self.directory / "new.login"
        self.bitrung("token", "create", "new-admin", "--role", "admin", "--out", file, "--server", socket_address, state=False)
        self.person("new", "login", file, "--server", self.address)
        self.person("new", "token", "list")


if __name__ == "__main__":
    import unittest
    unittest.main()
