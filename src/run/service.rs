//! What the service manager is told of the loop: readiness, one line of state, its beat, the end.

use std::rc::Rc;

use crate::plan::world::{Link, World};
use crate::sys::notify::ServiceManager;

/// One line for `systemctl status`.
fn headline(world: &World) -> String {
    if let Link::Down { why, .. } = &world.seen.link {
        return format!("waiting for containerd: {why}");
    }
    let is_ready = |uid| world.memory.pods.get(uid).and_then(|m| m.conditions.get("Ready")).is_some_and(|(holds, _)| *holds);
    let ready = world.wanted.pods.values().filter(|p| is_ready(&p.uid)).count();
    format!("{ready} of {} pods ready", world.wanted.pods.len())
}

/// What the service manager is told. Without one, nothing.
pub(super) struct Service {
    manager: Rc<ServiceManager>,
    watchdog: Option<tokio::time::Interval>,
    said: String,
}

impl Service {
    pub(super) fn new(manager: Rc<ServiceManager>) -> Service {
        // Half the time allowed, as sd_watchdog_enabled(3) advises. Beats that were missed are not made up for.
        let watchdog = sd_notify::watchdog_enabled().map(|allowed| {
            let mut interval = tokio::time::interval(allowed / 2);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        });
        Service { manager, watchdog, said: String::new() }
    }

    pub(super) fn ready(&self) {
        self.manager.tell("READY=1\n");
    }

    pub(super) fn stopping(&self) {
        self.manager.tell("STOPPING=1\n");
    }

    /// One line of state, told when it changes.
    pub(super) fn status(&mut self, world: &World) {
        let text = headline(world);
        if text != self.said {
            self.manager.tell(format!("STATUS={}\n", text.replace('\n', " ")));
            self.said = text;
        }
    }

    /// The loop turns: one beat when it is due. Without a watchdog, never.
    pub(super) async fn beat(&mut self) {
        match &mut self.watchdog {
            Some(interval) => {
                interval.tick().await;
                self.manager.tell("WATCHDOG=1\n");
            }
            None => std::future::pending().await,
        }
    }
}
