//! containerd and this host: the only room that sees tonic or its types. Does what `plan` says and reports what is there.
//!
//! The loop calls `perform` once per action and polls `watch` for ever; nothing else leaves this room. It decides nothing:
//! a failure becomes data (`Failure`) and `plan` sees its consequence, never a status code.

pub mod cgroup;
pub mod dns;
pub mod downward;
pub mod error;
pub mod hosts;
pub mod image_config;
pub mod logs;
pub mod net;
pub mod oci;
pub mod paths;
pub mod qos;
pub mod sandbox;
pub mod volume;

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::mpsc::UnboundedSender;
use tonic::transport::Channel;

use crate::plan::action::{Action, Class, Event, Failure, Outcome};
use crate::plan::world::SeenPod;
use crate::pod::WantedPod;
use crate::settings::Settings;
use paths::Paths;

/// One action with what it needs to know: the pod as wanted (if it is) and as last seen (if it was).
#[derive(Clone, Debug)]
pub struct Job {
    /// What to do.
    pub action: Action,
    /// The pod it is for, as wanted; of a pod nobody wants any more, `SeenPod::made_from`.
    pub pod: Option<Rc<WantedPod>>,
    /// The pod as last seen.
    pub seen: Option<SeenPod>,
}

/// The room: settings, the link to containerd, and what it keeps between calls.
pub struct Runtime {
    settings: Rc<Settings>,
    paths: Paths,
    events: UnboundedSender<Event>,
    link: RefCell<Option<Channel>>,
}

impl Runtime {
    /// A room with no link yet: `watch` makes it.
    pub fn new(settings: Rc<Settings>, events: UnboundedSender<Event>) -> Rc<Runtime> {
        let paths = Paths::new(&settings);
        Rc::new(Runtime { settings, paths, events, link: RefCell::new(None) })
    }

    /// Does one action. Never panics, never lasts for ever: every call has a deadline.
    pub async fn perform(self: Rc<Runtime>, job: Job) -> Outcome {
        match &job.action {
            Action::LookAll
            | Action::Look { .. }
            | Action::PrepareImage { .. }
            | Action::CreateSandbox { .. }
            | Action::CreateContainer { .. }
            | Action::StartTask { .. }
            | Action::Term { .. }
            | Action::Kill { .. }
            | Action::DeleteTask { .. }
            | Action::DeleteContainer { .. }
            | Action::DeleteSandbox { .. } => Outcome::Failed(Failure {
                class: Class::Unreachable,
                reason: "Unreachable".into(),
                message: "this build has no runtime yet".into(),
            }),
        }
    }

    /// Keeps the link to containerd and turns what happens there into events; never ends.
    pub async fn watch(self: Rc<Runtime>) {
        let _ = (&self.settings, &self.paths, &self.events, &self.link);
        std::future::pending::<()>().await;
    }
}
