"""GnuTLS reads a feed over TLS and checks the certificate (Debian package gnutls-bin)."""
import shutil

import raw_feeds
from processes import StartError

PATH = "/ws/stream"


def test_gnutls_reads_a_feed(start_tls, authority):
    if not (program := shutil.which("gnutls-cli")):
        raise StartError("no gnutls-cli: run `scripts/apt-install.sh gnutls-bin`")
    port = start_tls("demo").wait_ready().tls_port
    for versions in ("NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"):
        command = [program, "--logfile=/dev/null", "--priority", versions, "--x509cafile", authority.ca, "--port", port, "127.0.0.1"]
        assert len(raw_feeds.read(command, raw_feeds.head(port, PATH))) == raw_feeds.COUNT
