//! Lifecycle hooks: exec, httpGet, sleep. Weaker than probes, as the kubelet's are: any HTTP answer is a success (redirects on the same
//! host are followed), a command is not expanded, and `tcpSocket` passes validation and always fails.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::exec::{self, Ran};
use super::http::Get;
use super::target::Target;
use super::{VERSION, cut, go, tls};
use crate::plan::action::Event;
use crate::pod::{Hook, Uid, WantedPod};
use crate::runtime::Runtime;

/// The longest a hook without a bound of its own may take; its container's end is its end.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

/// How often a hook looks whether its container is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Whose hook it is.
pub struct Whose<'a> {
    pub rt: &'a Rc<Runtime>,
    pub uid: &'a Uid,
    pub id: &'a Rc<str>,
    pub name: &'a str,
    pub pod: &'a WantedPod,
    pub ips: &'a [IpAddr],
}

/// Runs a hook to its end; the error is why it failed.
pub async fn run(whose: &Whose<'_>, hook: Hook, within: Option<Duration>) -> Result<(), String> {
    let container = whose.pod.container(whose.name).ok_or("its manifest has no container of that name")?;
    let lifecycle = container.lifecycle.as_ref();
    let handler = match hook {
        Hook::PostStart => lifecycle.and_then(|l| l.post_start.as_ref()),
        Hook::PreStop => lifecycle.and_then(|l| l.pre_stop.as_ref()),
    };
    let handler = handler.ok_or("its manifest has no such hook")?;
    let bound = within.unwrap_or(FOR_EVER);
    if let Some(action) = &handler.exec {
        let word = if hook == Hook::PostStart { "post-start" } else { "pre-stop" };
        let exec = exec::Whose { uid: whose.uid, id: whose.id, word };
        return match exec::run(whose.rt, &exec, action.command.as_deref().unwrap_or_default(), bound).await? {
            Ran::Exited { code: 0, .. } => Ok(()),
            Ran::Exited { code, said } => Err(format!("command exited with {code}: {}", cut(&said))),
            Ran::Late => Err(format!("command timed out after {}", go(bound))),
        };
    }
    let target = Target { pod: whose.pod, container, ips: whose.ips, resolv_conf: &whose.rt.settings.resolv_conf };
    let ended = ended(whose);
    tokio::select! {
        done = tokio::time::timeout(bound, other(whose, &target, handler)) => done.unwrap_or_else(|_| Err(format!("timed out after {}", go(bound)))),
        () = ended => Err("its container has ended".into()),
    }
}

/// The end of the container, looked for while a hook runs and never otherwise.
async fn ended(whose: &Whose<'_>) {
    while whose.rt.known.borrow().get(whose.id).is_some_and(|k| !k.ended) {
        tokio::time::sleep(LOOK).await;
    }
}

async fn other(whose: &Whose<'_>, target: &Target<'_>, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(action) = &handler.http_get {
        let mut get = Get::new(target, action, &format!("kube-lifecycle/{VERSION}"))?;
        let mut answer = get.follow().await;
        if let Err(why) = &answer
            && why == tls::PLAIN
        {
            let message = format!("request to HTTPS lifecycle hook {} got HTTP response, retrying with HTTP: {why}", get.host());
            whose.rt.tell(Event::HookInClear { uid: whose.uid.clone(), id: whose.id.clone(), message: message.into() });
            get.in_clear();
            answer = get.follow().await;
        }
        return answer.map(drop).map_err(|e| format!("Get \"{}\": {e}", get.url()));
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: a tcpSocket hook is accepted and never run, as with the kubelet".into())
}
