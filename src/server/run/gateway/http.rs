//! The plain HTTP of the process: its pages, and those of operators.

use std::sync::Arc;

use super::Parts;
use crate::http::operator::Cutter;
use crate::http::{Admin, HttpPlane, Route, Site, operator, status_pages};
use crate::listening::{ListenAddr, ListenOptions};
use crate::run::RunError;
use crate::run::prepared::alone;
use crate::supervisor::{listen_route, take_refusals};
use crate::telemetry::Telemetry;
use weirgate_core::{BusEvent, Feed, Gateway};
use weirgate_runtime::Clock;

impl<G: Gateway, F: Feed<Event = BusEvent>> Parts<G, F> {
    /// Starts the HTTP threads, with the operators' pages on the admin address if there is one, or for the supervisor alone.
    /// Returns the address of the admin listener.
    ///
    /// # Errors
    /// The supervisor has not passed on its list of refusals, the admin address cannot be bound, or the system refuses a
    /// thread.
    pub(super) fn start_http(
        &mut self,
        telemetry: &Arc<Telemetry>,
        cutter: &Cutter,
        clock: Clock,
    ) -> Result<(HttpPlane, Option<ListenAddr>), RunError> {
        let supervisor = self.common.supervisor();
        if let Some(supervisor) = &supervisor {
            // Before any request: requests of those whom an operator has cut off are refused too.
            let taken = take_refusals(supervisor, &cutter.revoked, clock.now().unix_ms());
            taken.map_err(RunError::Settings)?;
        }
        let site = self.site(telemetry, clock);
        let operator = self.operator_routes(telemetry, cutter, supervisor.is_some(), clock);
        let common = &self.common;
        let (site, admin, admin_addr) = match (supervisor, &common.admin_addr) {
            (Some(supervisor), _) => {
                let (site, admin) = site.split_admin(operator);
                let admin = Admin::handed(supervisor.into_stream(), admin, clock);
                // `None`: the supervisor has the admin address.
                (site, Some(admin), None)
            }
            (None, Some(addr)) => {
                let (site, admin) = site.split_admin(operator);
                let options = &common.reactor.listen.options;
                let (admin, addr) = bind_admin(addr, options, admin, clock)?;
                (site, Some(admin), addr)
            }
            (None, None) => (site, None, None),
        };
        let plane = HttpPlane::start(site, admin, common.http_with(cutter), clock);
        Ok((plane.map_err(RunError::Thread)?, admin_addr))
    }

    /// The pages of the gateway, with those of every gateway.
    fn site(&mut self, telemetry: &Arc<Telemetry>, clock: Clock) -> Site {
        let stats_head = self.stats_head.take();
        let ready = self.common.ready;
        let mut routes = status_pages::status_routes(telemetry, clock, ready, stats_head);
        let of_gateway = std::mem::replace(&mut self.routes, Box::new(|_| Vec::new()));
        routes.extend(of_gateway(telemetry));
        Site {
            routes,
            fallback: self.fallback.take(),
            front: self.front,
            take_over: self.take_over.take(),
            cors: self.common.cors(),
            is_admin: false,
        }
    }

    /// The operators' pages, and with a supervisor those that only the supervisor requests.
    fn operator_routes(
        &self,
        telemetry: &Arc<Telemetry>,
        cutter: &Cutter,
        has_supervisor: bool,
        clock: Clock,
    ) -> Vec<Route> {
        let mut settings = self.common.operator();
        if has_supervisor {
            // The supervisor has judged the login, and only the supervisor can ask here.
            settings.token = None;
        }
        let mut routes = operator::routes(telemetry, clock, settings, cutter.clone());
        if has_supervisor {
            routes.push(listen_route(&self.common.reactor.listen.gate));
            routes.push(operator::members_route(telemetry, cutter));
        }
        routes
    }
}

fn bind_admin(
    addr: &ListenAddr,
    options: &ListenOptions,
    site: Site,
    clock: Clock,
) -> Result<(Admin, Option<ListenAddr>), RunError> {
    let failed = |error| RunError::listen(addr, error);
    let admin = Admin::bind(addr, &alone(options), site, clock).map_err(failed)?;
    let addr = admin.local_addr().map_err(failed)?;
    Ok((admin, addr))
}
