//! The permit of a connection under the limits on connections and their memory: what it counts, and for which address.

use super::Session;
use crate::Now;
use weirgate_wire::admission::ConnectionPermit;

impl Session {
    /// The permit under the limits on connections, until it is handed over with the connection.
    pub(crate) fn permit(&self) -> Option<&ConnectionPermit> {
        self.cold.permit.as_ref()
    }

    /// The permit, to count the connection for an address.
    pub(crate) fn permit_mut(&mut self) -> Option<&mut ConnectionPermit> {
        self.cold.permit.as_mut()
    }

    /// Counts the connection by another permit.
    pub(crate) fn set_permit(&mut self, permit: ConnectionPermit) {
        self.cold.permit = Some(permit);
    }

    /// Counts the client's certificates.
    pub(crate) fn count_certificates(&mut self, bytes: usize, now: Now) {
        if let Some(permit) = &mut self.cold.permit {
            permit.set_certificate_bytes(bytes, now.mono_us);
        }
    }

    /// Counts what the client's token says, and what the gateway keeps for this client in addition to what it keeps for
    /// every client; `None`: that has not changed.
    pub(crate) fn count_client(&mut self, client_bytes: Option<usize>, now: Now) {
        let token_bytes = self.cold.record.token_bytes();
        if let Some(permit) = &mut self.cold.permit {
            permit.set_token_bytes(token_bytes, now.mono_us);
            if let Some(bytes) = client_bytes {
                permit.set_client_bytes(bytes, now.mono_us);
            }
        }
    }

    /// Counts the memory of the connection for the client's address.
    pub(crate) fn move_permit(&self) {
        if let Some(permit) = &self.cold.permit {
            permit.held().move_to(self.client_addr());
        }
    }

    /// Counts the memory of the connection for the peer's address: the connection of a proxy brings many clients.
    pub(crate) fn give_permit_to_peer(&self) {
        if let Some(permit) = &self.cold.permit {
            permit.held().move_to(self.peer().client());
        }
    }

    /// Counts the connection as plain HTTP.
    pub(crate) fn count_as_http(&mut self, now: Now) {
        if let Some(permit) = &mut self.cold.permit {
            permit.move_to_http(now.mono_us);
        }
    }

    /// Counts the connection for no address.
    pub(crate) fn leave_address(&mut self) {
        if let Some(permit) = &mut self.cold.permit {
            permit.leave_address();
        }
    }
}
