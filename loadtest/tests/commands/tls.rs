//! The limit over TLS, and servers over TLS beside the limit.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, StreamOwned,
    SupportedProtocolVersion,
};

use super::*;
use crate::compare::{SMALL, names};

/// The certificate of 127.0.0.1, which clients also trust as an authority, and the key.
struct Made {
    dir: TempDir,
}

impl Made {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        Self { dir }
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// loadtest with the certificate and the key in the environment.
    fn loadtest(&self, args: &[&str]) -> Command {
        let mut command = Command::new(LOADTEST);
        command
            .args(args)
            .env("TLS_CERT", self.certificate())
            .env("TLS_KEY", self.dir.path().join("key.pem"));
        command
    }

    /// A limit over TLS that makes its messages; returns the port too.
    fn limit(&self, args: &[&str]) -> (Ended, u16) {
        let mut command = self.loadtest(&["limit", "--tls", "--generate"]);
        let child = command.args(args).stdout(Stdio::piped()).spawn();
        let mut limit = Ended(child.unwrap());
        let mut ready = String::new();
        let mut lines = BufReader::new(limit.0.stdout.take().unwrap());
        lines.read_line(&mut ready).unwrap();
        let port = |word: &str| word.strip_prefix("port=")?.parse().ok();
        (limit, ready.split_whitespace().find_map(port).unwrap())
    }

    /// Sends an upgrade request with a version of TLS; returns the connection after the response.
    fn upgraded(
        &self,
        port: u16,
        version: &'static SupportedProtocolVersion,
    ) -> std::io::Result<ClientConnection> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(self.certificate()).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut stream = StreamOwned::new(session, socket);
        stream
            .write_all(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        assert_eq!(&answer, b"HTTP/1.1 101");
        Ok(stream.conn)
    }
}

#[test]
fn compare_puts_a_server_over_tls_beside_the_limits_over_tls() {
    let made = Made::new();
    let file = made.dir.path().join("result.json");
    let server = format!("{} --tls", limit_command());
    let limits = ["--aa", "--limit-tls", "--rounds", "1", "--rate", "100"];
    let output = made
        .loadtest(&[&SMALL[..], &limits].concat())
        .args(["--server", &server, "--tls", "loadtest", "--ca-file"])
        .arg(made.certificate())
        .arg("--json")
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("of TLS limit"), "{table}");
    let seen = json(&file);
    let servers = &seen["cases"][0]["servers"];
    let expected = [
        "TLS limit",
        "coalescing TLS limit",
        "TLS limit again",
        "loadtest",
    ];
    assert_eq!(
        (names(servers), &seen["base"]),
        (expected.to_vec(), &"TLS limit".into())
    );
    for s in servers.as_array().unwrap() {
        assert_eq!((&s["lost"], &s["deliveries"]), (&0.into(), &400.into()));
        assert_eq!(s["bytes_per_delivery"]["median"], 2057.0);
    }
    for contestant in seen["contestants"].as_array().unwrap() {
        assert_eq!(contestant["tls"], true, "{contestant}");
    }
    let against = &servers[3]["against"][0];
    assert_eq!(against["name"], "TLS limit");
    assert!(against["cpu"]["median"].as_f64() > Some(0.1), "{against}");
}

#[test]
fn a_limit_over_tls_refuses_plain_clients() {
    let made = Made::new();
    let server = format!("{} --tls", limit_command());
    let output = made
        .loadtest(&SMALL)
        .args(["--server", &server, "--rounds", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("loadtest: server: "), "{said}");
}

#[test]
fn the_limit_over_tls_has_one_version_and_one_suite() {
    let made = Made::new();
    let (_limit, port) = made.limit(&["--bytes", "200", "--rate", "20"]);
    // The first choice of this client is AES-256.
    let session = made.upgraded(port, &TLS13).unwrap();
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let suite = session.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert!(made.upgraded(port, &TLS12).is_err());
}

/// Frames of several sends each, as fast as the clients take frames, so sockets are full in the middle of a record.
#[test]
fn large_frames_arrive_whole_over_tls() {
    let made = Made::new();
    let messages = ["--bytes", "200000", "--after-clients", "5"];
    let (_limit, port) = made.limit(&messages);
    let file = made.dir.path().join("clients.json");
    let url = format!("wss://127.0.0.1:{port}/ws/stream");
    let output = made
        .loadtest(&["clients", &url, "-n", "5", "--expect", "40", "--json"])
        .arg(&file)
        .arg("--ca-file")
        .arg(made.certificate())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let readers = &json(&file)["readers"];
    assert!(readers["deliveries"].as_u64() >= Some(200), "{readers}");
    for figure in ["skipped", "not_rising", "unstamped"] {
        assert_eq!(readers[figure], 0, "{readers}");
    }
}

#[test]
fn a_limit_over_tls_needs_a_certificate_and_an_authority() {
    let made = Made::new();
    let server = limit_command();
    let compare = ["compare", "--server", &server, "--limit-tls"];
    let with_authority = [&compare[..], &["--ca-file", "unused"]].concat();
    let mut without_certificate = Command::new(LOADTEST);
    without_certificate
        .args(&with_authority)
        .env_remove("TLS_CERT");
    let refused = [
        (made.loadtest(&compare), "--ca-file"),
        (without_certificate, "TLS_CERT and TLS_KEY"),
        (
            made.loadtest(&[&with_authority[..], &["--limits", "none"]].concat()),
            "need a limit",
        ),
    ];
    for (mut command, why) in refused {
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
}
