//! What goes on around plinth while it works: edits, lost images, new archives, restarts of containerd, reboots, and its own death.

use plinth::plan::action::{Class, Event, Outcome};
use plinth::plan::world::Link;
use plinth::pod::{ImageRef, PodKey};

use crate::drive::{Item, Sim};
use crate::host::Fault;
use crate::wish::IMAGES;

/// Kinds of chaos, in the order of the bits of `Knobs::off`.
const CHAOS: [Chaos; 10] = [
    Chaos::Edit,
    Chaos::Remove,
    Chaos::Add,
    Chaos::Amnesia,
    Chaos::Restart,
    Chaos::Reboot,
    Chaos::Wipe,
    Chaos::LoseImage,
    Chaos::Hint,
    Chaos::Archives,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chaos {
    Edit,
    Remove,
    Add,
    Amnesia,
    Restart,
    Reboot,
    Wipe,
    LoseImage,
    Hint,
    Archives,
}

impl Sim {
    /// Something happens, and the next thing is due.
    pub fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let which = usize::try_from(self.rng.below(CHAOS.len() as u64)).unwrap();
        let rare = matches!(CHAOS[which], Chaos::Reboot | Chaos::Wipe) && self.rng.percent(50);
        if self.knobs.off & (1 << which) == 0 && !rare {
            self.note(|| format!("* {:?}", CHAOS[which]));
            self.strike(CHAOS[which]);
        }
        let pause = self.rng.pick(&[1, 10, 40, 300, 2_000, 9_000, 60_000]);
        self.at(pause, Item::Chaos);
    }

    fn strike(&mut self, chaos: Chaos) {
        let index = self.rng.below(self.knobs.pods);
        let key = PodKey { namespace: "default".into(), name: format!("pod{index}").into() };
        match chaos {
            Chaos::Edit => {
                self.want(index);
                self.tell_wishes(true);
            }
            Chaos::Remove => {
                self.wishes.remove(&key);
                self.tell_wishes(true);
            }
            // As it was before, if it was: the same uid, perhaps while it is still going.
            Chaos::Add => {
                let old = self.host.wishes.values().rfind(|p| p.key == key).cloned();
                match old {
                    Some(pod) => {
                        self.wishes.insert(key, pod);
                    }
                    None => self.want(index),
                }
                self.tell_wishes(true);
            }
            Chaos::Amnesia => {
                self.finish_jobs();
                self.begin_life();
            }
            Chaos::Restart => self.restart_containerd(),
            Chaos::Reboot => {
                self.finish_jobs();
                self.host.reboot();
                self.boot = self.ms;
                self.begin_life();
            }
            Chaos::Wipe => {
                self.restart_containerd();
                // By the clock: worlds of kept seeds stay what they were.
                if self.ms.is_multiple_of(3) {
                    self.host.lose_data();
                }
                self.host.wipe();
                self.bench.forget();
            }
            Chaos::LoseImage => {
                let image = self.rng.pick(&IMAGES);
                self.host.images.remove(&ImageRef(image.into()));
            }
            Chaos::Archives => {
                let image = self.rng.pick(&IMAGES);
                self.host.images.insert(ImageRef(image.into()));
                self.bench.relooks();
                self.apply(Event::Archives);
            }
            Chaos::Hint => {
                if let Some(pod) = self.wishes.get(&key) {
                    self.apply(Event::Hint(pod.uid.clone()));
                }
            }
        }
    }

    /// What is in flight when plinth or containerd ends was done, or was not.
    fn finish_jobs(&mut self) {
        let open: Vec<u64> = self.jobs.iter().filter(|(_, j)| j.outcome.is_none()).map(|(n, _)| *n).collect();
        for job in open {
            if self.rng.percent(50) {
                // Whatever law that breaks is broken again when the pod is looked at; here only the truth moves on.
                let _ = self.effect(job);
            }
        }
    }

    fn restart_containerd(&mut self) {
        if matches!(self.world.seen.link, Link::Down { .. }) {
            return;
        }
        self.finish_jobs();
        let now = self.now();
        for (_, job) in std::mem::take(&mut self.jobs) {
            let outcome = self.host.act(&job.action, Fault::Refused, self.ms, now.wall);
            let Ok(Outcome::Failed(mut failure)) = outcome else { continue };
            failure.class = Class::Unreachable;
            let outcome = Outcome::Failed(failure);
            self.bench.ends(&job.action, &outcome, self.ms);
            self.apply(Event::Ended(job.action, outcome));
        }
        self.bench.relink();
        self.apply(Event::Link(Link::Down { why: "gone".into(), since: now.mono }));
        let away = self.rng.pick(&[1, 50, 3_000, 40_000]);
        self.at(away, Item::LinkUp);
    }
}
