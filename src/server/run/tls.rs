//! TLS towards clients: its files are read at the start, and again after a change, without closing a connection.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::server::ProducesTickets;

use super::RunError;
use super::fingerprints::{Attempt, Fingerprints};
use super::prepared::StartQuestion;
use super::reload::{Reload, Reloaded};
use crate::listening::tls::{
    CertificateError, CertificateFacts, CertificateFiles, ENDS_SOON_S, OldestVersion, ServerTls,
    ServerTlsFiles, ServerTlsInForce, greet_itself, tickets,
};
use crate::reactor::HandshakeCounts;
use crate::settings::{Checked, TlsSettings};
use crate::telemetry::{GatewayMetric, MetricName};
use weirgate_runtime::{Clock, regular_file};
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
    /// When the certificates were last checked for an end that is near, Unix seconds. The log has the warnings until
    /// then.
    warned_s: i64,
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
        let read = ServerTls::read(&files, Arc::clone(&tickets), regular_file);
        let tls = read.map_err(failed)?;
        let warned_s = now_s(clock);
        warn(&tls.facts, warned_s);
        Ok(Self {
            files,
            fingerprints,
            tickets,
            in_force: ServerTlsInForce::new(tls),
            clock,
            warned_s,
        })
    }

    /// The configuration for new clients.
    pub(super) fn in_force(&self) -> ServerTlsInForce {
        self.in_force.clone()
    }

    /// The check for `--check --connect`: a handshake of this process with itself for each certificate.
    pub(super) fn question(&self) -> StartQuestion {
        let (in_force, now_s) = (self.in_force.clone(), now_s(self.clock));
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

    /// Also warns of certificates that end soon: nobody may have looked at the log of the start.
    fn poll_change(&mut self) -> bool {
        let before_s = self.warned_s;
        self.warn_of_ends(|facts, now_s| is_another_day(facts, before_s, now_s));
        self.fingerprints.poll_change()
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        let outcome = self.read_again();
        // Changed certificates have their warnings in the log already.
        if outcome != Ok(Reloaded::Changed) {
            self.warn_of_ends(|_, _| true);
        }
        outcome
    }
}

impl TlsInForce {
    /// Warns of the certificates in force that end soon, or have ended, for which the warning `is_due` at this time.
    fn warn_of_ends(&mut self, is_due: impl Fn(&CertificateFacts, i64) -> bool) {
        self.warned_s = now_s(self.clock);
        for facts in self.in_force.facts() {
            if let Some(complaint) = end_soon(&facts, self.warned_s)
                && is_due(&facts, self.warned_s)
            {
                complain(&facts, &complaint);
            }
        }
    }

    /// Reads the files again, and puts them in force if they have changed.
    fn read_again(&mut self) -> Result<Reloaded, String> {
        let kept = |error: CertificateError| format!("{error}; the certificates stay as they were");
        let (files, tickets) = (&self.files, Arc::clone(&self.tickets));
        let read = |attempt: &mut Attempt| {
            ServerTls::read(files, tickets, |path| attempt.file(regular_file(path)))
        };
        // `None`: a file has changed meanwhile. A later check finds that.
        let Some(tls) = self.fingerprints.read(read).map_err(kept)? else {
            return Ok(Reloaded::Unchanged);
        };
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
        self.warned_s = now_s(self.clock);
        warn(&tls.facts, self.warned_s);
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

fn now_s(clock: Clock) -> i64 {
    clock.now().unix_ms() / 1000
}

/// Logs complaints about certificates.
fn warn(all: &[CertificateFacts], now_s: i64) {
    for facts in all {
        for complaint in complaints(facts, now_s) {
            complain(facts, &complaint);
        }
    }
}

fn complain(facts: &CertificateFacts, complaint: &str) {
    tracing::warn!(file = %facts.file.display(), "the certificate {complaint}");
}

/// The whole days until a certificate ends, if it ends soon; negative once it has ended. The log warns for each number.
fn days_left(facts: &CertificateFacts, now_s: i64) -> Option<i64> {
    let left_s = facts.ends_unix_s - now_s;
    (left_s < ENDS_SOON_S).then(|| left_s.div_euclid(DAY_S))
}

/// Whether there is something new to warn of since an earlier time.
fn is_another_day(facts: &CertificateFacts, before_s: i64, now_s: i64) -> bool {
    days_left(facts, before_s) != days_left(facts, now_s)
}

/// Says that a certificate ends soon, or has ended; `None` if it has more time.
fn end_soon(facts: &CertificateFacts, now_s: i64) -> Option<String> {
    days_left(facts, now_s).map(|days| match days {
        0.. => format!("expires in {days} days"),
        // -1 within the first day after the end.
        ended => format!("has expired {} days ago", -1 - ended),
    })
}

/// Why clients may refuse a certificate, now or soon; also a key that costs much CPU.
pub(super) fn complaints(facts: &CertificateFacts, now_s: i64) -> Vec<String> {
    let all = [
        end_soon(facts, now_s),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_two_weeks_before_its_end_a_certificate_has_a_warning_for_each_day() {
        let ends_unix_s = 1_790_000_000;
        let facts = CertificateFacts {
            file: PathBuf::new(),
            names: Vec::new(),
            begins_unix_s: 0,
            ends_unix_s,
            is_in_order: true,
            lacks_intermediate: false,
            is_costly: false,
        };
        let says = |left_s| end_soon(&facts, ends_unix_s - left_s);
        for (left_s, want) in [
            (ENDS_SOON_S, None),
            (ENDS_SOON_S - 1, Some("expires in 13 days")),
            (13 * DAY_S, Some("expires in 13 days")),
            (13 * DAY_S - 1, Some("expires in 12 days")),
            (0, Some("expires in 0 days")),
            (-1, Some("has expired 0 days ago")),
            (-DAY_S, Some("has expired 0 days ago")),
            (-DAY_S - 1, Some("has expired 1 days ago")),
        ] {
            assert_eq!(says(left_s).as_deref(), want, "{left_s}");
        }
        let looks: Vec<i64> = (-30 * DAY_S..=DAY_S).step_by(1_000).collect();
        let is_due =
            |both: &&[i64]| is_another_day(&facts, ends_unix_s + both[0], ends_unix_s + both[1]);
        assert_eq!(looks.windows(2).filter(is_due).count(), 15);
    }
}
