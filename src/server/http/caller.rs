//! The sender of a plain request, and whether an operator has cut it off.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use hyper::header::{HeaderMap, HeaderValue};
use tokio::sync::watch;

use super::in_progress::InProgress;
use weirgate_core::{Connected, Revoked};
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ClientAddr, Peer, TrustedProxies};
use weirgate_wire::auth::{Refusal, TokenMarks};

/// How the address of a client is found, and who is refused.
#[derive(Clone, Debug)]
pub struct ClientAccess {
    /// The proxies whose `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` count.
    pub trusted_proxies: TrustedProxies,
    /// The users and addresses that an operator has cut off.
    pub revoked: Revoked,
    /// Changes when somebody is cut off: a request in progress may be that client's.
    pub cuts: watch::Receiver<()>,
    /// The requests that end when their senders are cut off.
    pub in_progress: InProgress,
    /// Says whether a refusal has ended.
    pub clock: Clock,
}

impl Default for ClientAccess {
    /// No proxy, and nobody is refused.
    fn default() -> Self {
        Self {
            trusted_proxies: TrustedProxies::None,
            revoked: Revoked::default(),
            // Without a sender: nobody is ever cut off.
            cuts: watch::channel(()).1,
            in_progress: InProgress::default(),
            clock: Clock::start(),
        }
    }
}

/// The sender of a request: over a connection of a proxy, a client of the proxy.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The client's address: the peer's, or what a trusted proxy says.
    pub address: ClientAddr,
    /// Whether the peer is a trusted proxy.
    pub is_proxied: bool,
    /// The name in the certificate of the connection; `None` without one.
    certificate: Option<Arc<str>>,
    /// Empty until the token is judged. Shared with the connection, which ends the request when its sender is cut off.
    token: Arc<OnceLock<Known>>,
    access: Arc<ClientAccess>,
}

/// Whose token a request has.
#[derive(Debug)]
struct Known {
    /// `None`: the token names no user.
    user: Option<Box<str>>,
    marks: TokenMarks,
}

impl Caller {
    /// The sender of a request with these headers. `certificate` is the name in the certificate of the connection.
    pub(super) fn of(
        access: &Arc<ClientAccess>,
        peer: &Peer,
        certificate: Option<Arc<str>>,
        headers: &HeaderMap,
    ) -> Self {
        let lines = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
        Self {
            address: access.trusted_proxies.client(peer, lines),
            is_proxied: access.trusted_proxies.trusts_peer(peer),
            certificate,
            token: Arc::default(),
            access: Arc::clone(access),
        }
    }

    /// Whether the sender is a program of this machine: on a unix socket, or at 127.0.0.1 or ::1.
    pub(super) fn is_this_machine(&self) -> bool {
        let here = [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ];
        self.address.ip().is_none_or(|ip| here.contains(&ip))
    }

    /// Checks that no operator has cut the sender off ([`Revoked::admit`]).
    ///
    /// # Errors
    /// An operator has cut the sender off.
    pub(super) fn admit(&self) -> Result<(), Refusal> {
        let ClientAccess { revoked, clock, .. } = &*self.access;
        let token = self.token.get();
        let who = Connected {
            user: token.and_then(|token| token.user.as_deref()),
            marks: token.map(|token| &token.marks),
            ..Connected::at(self.address, self.certificate.as_deref())
        };
        revoked.admit(&who, clock.now().unix_ms())
    }

    /// Notes the token of the request, once it is judged, and checks that no operator has cut the sender off: from here
    /// on the user and the marks of the token count too.
    ///
    /// # Errors
    /// An operator has cut the sender off.
    pub fn admit_token(&self, user: Option<&str>, marks: TokenMarks) -> Result<(), Refusal> {
        let user = user.map(Into::into);
        self.token.get_or_init(|| Known { user, marks });
        self.admit()
    }
}
