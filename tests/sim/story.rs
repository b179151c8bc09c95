//! What happened, in a few words: the lines of a failing run's story.

use plinth::plan::action::{Effect, Outcome};
use plinth::plan::world::{Sandbox, SeenPod, State};

/// An outcome in a few words.
pub fn tell(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(Effect::All(all)) => format!("{} pods", all.len()),
        Outcome::Done(Effect::Pod(None)) => "nothing".into(),
        Outcome::Done(Effect::Pod(Some(pod))) => tell_pod(pod),
        Outcome::Done(Effect::Container(c)) => tell_state(&c.state),
        Outcome::Done(Effect::Image(image)) => format!("{image:?}"),
        Outcome::Done(effect) => format!("{effect:?}"),
        Outcome::Failed(f) => format!("{:?} {}", f.class, f.reason),
    }
}

fn tell_pod(pod: &SeenPod) -> String {
    let sandbox = match pod.sandbox {
        Sandbox::Absent => "no sandbox",
        Sandbox::Partial => "half a sandbox",
        Sandbox::Ready { .. } => "a sandbox",
    };
    let containers: Vec<String> = pod.containers.values().map(|c| format!(", {} {} {}", c.name, c.attempt, tell_state(&c.state))).collect();
    format!("{sandbox}{}", containers.concat())
}

fn tell_state(state: &State) -> String {
    match state {
        State::Record => "record".into(),
        State::Created => "created".into(),
        State::Running { .. } => "running".into(),
        State::Exited(e) => format!("exited {}", e.code),
        State::Lost(e) => format!("lost {}", e.code),
        State::Dead(e) => format!("dead {}", e.code),
    }
}
