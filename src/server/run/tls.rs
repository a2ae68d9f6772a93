//! TLS towards clients: its files are read at the start, and again after a change, without closing a connection.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::ProducesTickets;

use super::RunError;
use super::fingerprints::Fingerprints;
use super::prepared::StartQuestion;
use super::reload::{Reload, Reloaded};
use crate::listening::tls::{
    CertificateError, CertificateFacts, CertificateFiles, ENDS_SOON_S, OldestVersion, ServerTls,
    ServerTlsFiles, ServerTlsInForce, greet_itself, tickets,
};
use crate::reactor::HandshakeCounts;
use crate::settings::{Checked, TlsSettings};
use crate::telemetry::{GatewayMetric, MetricName};
use weirgate_runtime::Clock;
use weirgate_wire::admission::Quota;
use weirgate_wire::base::Finding;

const DAY_S: i64 = 24 * 3600;

/// The settings of TLS towards clients.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The files.
    pub(crate) files: ServerTlsFiles,
    /// Slots for handshakes in progress.
    pub(crate) handshakes: Quota,
}

impl ClientTls {
    /// One certificate for all clients: the file of its chain and that of its key (PEM). At most `handshakes_max` handshakes
    /// are under way at once.
    pub fn with_certificate(chain: PathBuf, key: PathBuf, handshakes_max: u64) -> Self {
        let files = ServerTlsFiles {
            certificates: vec![CertificateFiles { chain, key }],
            client_ca: None,
            oldest: OldestVersion::default(),
        };
        Self::of(files, handshakes_max)
    }

    /// Reads the settings; `None` without `--tls-port`.
    pub(super) fn new(checked: &Checked) -> Option<Self> {
        let files = checked.server_tls()?;
        let tls: TlsSettings = checked.get();
        Some(Self::of(files, tls.handshakes_max))
    }

    fn of(files: ServerTlsFiles, handshakes_max: u64) -> Self {
        let handshakes = Quota::new("tls_handshakes", handshakes_max);
        Self { files, handshakes }
    }
}

/// The files in force.
#[derive(Debug)]
pub(super) struct TlsInForce {
    files: ServerTlsFiles,
    fingerprints: Fingerprints,
    tickets: Arc<dyn ProducesTickets>,
    in_force: ServerTlsInForce,
    clock: Clock,
}

impl TlsInForce {
    /// Reads the files, and logs problems of certificates.
    ///
    /// # Errors
    /// The files cannot serve clients.
    pub(super) fn read(files: ServerTlsFiles, clock: Clock) -> Result<Self, RunError> {
        let failed = |error: CertificateError| RunError::Settings(format!("TLS: {error}"));
        let tickets = tickets(clock);
        let fingerprints = Fingerprints::take(files.paths());
        let tls = ServerTls::read(&files, Arc::clone(&tickets)).map_err(failed)?;
        warn(&tls.facts, clock);
        Ok(Self {
            files,
            fingerprints,
            tickets,
            in_force: ServerTlsInForce::new(tls),
            clock,
        })
    }

    /// The configuration for new clients.
    pub(super) fn in_force(&self) -> ServerTlsInForce {
        self.in_force.clone()
    }

    /// The check for `--check --connect`: a handshake of this process with itself for each certificate.
    pub(super) fn question(&self) -> StartQuestion {
        let (in_force, now_s) = (self.in_force.clone(), self.clock.now().unix_ms() / 1000);
        StartQuestion::new("TLS", move |_| {
            let tls = in_force.config();
            let each = tls.facts.iter();
            each.map(|facts| greeted(&tls, facts, now_s)).collect()
        })
    }

    /// The metric of the earliest end of a certificate.
    pub(super) fn expiry(&self) -> GatewayMetric {
        let in_force = self.in_force.clone();
        let ends = move || {
            let facts = in_force.facts();
            let first = facts.iter().map(|facts| facts.ends_unix_s).min();
            first.map_or(0, |ends| u64::try_from(ends).unwrap_or(0))
        };
        GatewayMetric::Number(&MetricName::TLS_CERTIFICATE_EXPIRY, Box::new(ends))
    }
}

impl Reload for TlsInForce {
    fn what(&self) -> &'static str {
        "tls"
    }

    fn poll_change(&mut self) -> bool {
        self.fingerprints.poll_change()
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let kept = |error| format!("{error}; the certificates stay as they were");
        self.fingerprints.will_read();
        let tls = ServerTls::read(&self.files, Arc::clone(&self.tickets)).map_err(kept)?;
        if self.fingerprints.have_changed() {
            // A file changed during the read; the next check finds the change.
            return Ok(Reloaded::Unchanged);
        }
        if tls.is_same(&self.in_force) {
            return Ok(Reloaded::Unchanged);
        }
        for facts in &tls.facts {
            tracing::info!(
                file = %facts.file.display(),
                names = facts.names.join(" "),
                ends_unix_s = facts.ends_unix_s,
                "the certificate has changed"
            );
        }
        warn(&tls.facts, self.clock);
        self.in_force.put(tls);
        Ok(Reloaded::Changed)
    }
}

/// The finding of a handshake with one of the certificates in force.
fn greeted(tls: &ServerTls, facts: &CertificateFacts, now_s: i64) -> Finding {
    let file = facts.file.display();
    match greet_itself(tls, facts) {
        Ok(version) => {
            let names = facts.names.join(", ");
            let days = (facts.ends_unix_s - now_s) / DAY_S;
            Finding::Good(format!(
                "TLS: a handshake of version {version} with the certificate of {file}, for {names}, which ends in {days} days"
            ))
        }
        Err(reason) => Finding::Error(format!("TLS: no handshake with {file}: {reason}")),
    }
}

/// Logs complaints about certificates.
fn warn(all: &[CertificateFacts], clock: Clock) {
    let now_s = clock.now().unix_ms() / 1000;
    for facts in all {
        for complaint in complaints(facts, now_s) {
            tracing::warn!(file = %facts.file.display(), "the certificate {complaint}");
        }
    }
}

/// Why clients may refuse a certificate, now or soon; also a key that costs much CPU.
pub(super) fn complaints(facts: &CertificateFacts, now_s: i64) -> Vec<String> {
    let left_s = facts.ends_unix_s - now_s;
    let days = left_s / DAY_S;
    let all = [
        (left_s < 0).then(|| format!("has expired {} days ago", -days)),
        (0..ENDS_SOON_S)
            .contains(&left_s)
            .then(|| format!("expires in {days} days")),
        (facts.begins_unix_s > now_s).then(|| "is not valid yet".to_owned()),
        (!facts.is_in_order)
            .then(|| "is in a chain out of order: each has to be issued by the next".to_owned()),
        facts.lacks_intermediate.then(|| {
            "is alone in its file: without the intermediate certificate of its issuer (fullchain.pem) many clients refuse it"
                .to_owned()
        }),
        facts
            .names
            .is_empty()
            .then(|| "has no name in its SAN extension: browsers refuse it".to_owned()),
        facts
            .is_costly
            .then(|| "has an RSA key: with ECDSA P-256 a handshake costs a fifth".to_owned()),
    ];
    all.into_iter().flatten().collect()
}

/// The metrics of handshakes.
pub(super) fn handshake_metrics(counts: &Arc<HandshakeCounts>) -> [GatewayMetric; 2] {
    [
        GatewayMetric::by_label(
            &MetricName::TLS_HANDSHAKES,
            counts,
            HandshakeCounts::outcomes,
        ),
        GatewayMetric::by_label(
            &MetricName::TLS_HANDSHAKES_OPEN,
            counts,
            HandshakeCounts::open,
        ),
    ]
}
