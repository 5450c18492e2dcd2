"""docs/clients/rust: the examples call every public function on a real server, with SeaORM from the registry.

Built once in target/clients. Skipped where cargo or the crates cannot be had; what is fetched and does not build is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from .clients_case import CLIENTS, ROOT, ClientTest, readme
from .system import clean_environment, exclusive

SECONDS = 120
CRATE = CLIENTS / "rust"
TARGET = ROOT / "target" / "clients"


class Examples(ClientTest):
    """The examples as they are."""

    # A first build takes a minute or two on two cores, more beside other tests.
    time_limit = 900.0

    def cargo(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs cargo on the examples, with nothing of the build of the extension in its environment."""
        kept = {name: value for name, value in clean_environment().items()
                if not name.startswith("CARGO_") or name == "CARGO_HOME" or name.startswith(("CARGO_NET", "CARGO_HTTP", "CARGO_REG"))}
        kept.update({name: value for name, value in os.environ.items() if name.startswith("RUSTUP_")})
        return subprocess.run(["cargo", *arguments, "--manifest-path", str(CRATE / "Cargo.toml"), "--locked"], capture_output=True,
                              text=True, env={**kept, "CARGO_TARGET_DIR": str(TARGET)}, timeout=self.time_limit)

    def program(self) -> str:
        """The path of the examples, built."""
        if shutil.which("cargo") is None:
            self.skipTest("there is no cargo")
        with exclusive("clients-rust"):
            fetched = self.cargo("fetch", "--quiet")
            if fetched.returncode != 0:
                self.skipTest(f"the crates cannot be fetched: {fetched.stderr}")
            built = self.cargo("build", "--offline", "--quiet")
            self.assertEqual(built.returncode, 0, built.stderr)
            self.assertEqual(built.stderr, "")
        return str(TARGET / "debug" / "perf_opt_examples")

    def test_readme(self) -> None:
        lines = [line.strip() for line in (CRATE / "src" / "main.rs").read_text().splitlines()]
        self.assertIn("\n".join(readme("rust").splitlines()), "\n".join(lines))

    def test_examples(self) -> None:
        self.run_examples(self.server(), [self.program()], "postgres", {"RUST_BACKTRACE": "0"})
