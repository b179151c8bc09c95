//! Random wishes: pods of every shape, and how the processes in them behave.

use std::rc::Rc;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec};
use plinth::pod::{
    Care, ImageRef, Kind, Origin, PodKey, ProbeRule, PullPolicy, RestartPolicy, Uid, VolumeImage, WantedContainer, WantedPod,
};

use crate::rng::Rng;

/// All images there are.
pub const IMAGES: [&str; 4] = ["reg/a:1", "reg/b:1", "reg/c:1", "reg/d:1"];

/// How a container's process behaves.
#[derive(Clone, Debug)]
pub struct Temper {
    /// It fails so many times first.
    pub crashes: u32,
    /// Living so long, ms.
    pub crash_ms: u64,
    /// Then it lives so long, ms; `None`: until it is told to stop.
    pub life_ms: Option<u64>,
    /// It ends with this.
    pub code: u32,
    /// So long after TERM, ms; `None`: it ignores TERM.
    pub term_ms: Option<u64>,
    /// So many attempts fail their liveness probe.
    pub sick: u32,
    /// It passes its startup probe so long after its start, ms.
    pub startup_ms: u64,
    /// Its hooks take so long, ms.
    pub hook_ms: u64,
}

/// One wish: a pod and the tempers of its containers.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The pod.
    pub pod: Rc<WantedPod>,
    /// By container name.
    pub tempers: Vec<(Rc<str>, Temper)>,
}

/// A pod named `pod<index>`; another revision is another uid.
pub fn wish(rng: &mut Rng, index: u64, revision: u64) -> Wish {
    let policy = rng.pick(&[RestartPolicy::Always, RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
    let (mut containers, mut tempers) = (Vec::new(), Vec::new());
    let inits = rng.below(4).saturating_sub(1);
    for i in 0..inits + rng.between(1, 3) {
        let kind = match i < inits {
            true => rng.pick(&[Kind::Init, Kind::Init, Kind::Sidecar]),
            false => Kind::Main,
        };
        let name: Rc<str> = format!("{}{i}", if kind == Kind::Main { "main" } else { "init" }).into();
        let restart = match (kind, policy) {
            (Kind::Sidecar, _) => RestartPolicy::Always,
            (Kind::Init, RestartPolicy::Always) => RestartPolicy::OnFailure,
            (_, policy) => policy,
        };
        tempers.push((name.clone(), temper(rng, kind, restart)));
        let pull = rng.pick(&[PullPolicy::IfNotPresent, PullPolicy::IfNotPresent, PullPolicy::Always, PullPolicy::Never]);
        containers.push(WantedContainer { name, kind, image: ImageRef(rng.pick(&IMAGES).into()), pull, restart, care: care(rng, kind) });
    }
    let pod = WantedPod {
        key: PodKey { namespace: "default".into(), name: format!("pod{index}").into() },
        uid: Uid(format!("pod{index}-r{revision}").into()),
        object: Rc::new(object(index, revision)),
        origin: Origin::default(),
        containers,
        volume_images: volumes(index, revision, &tempers),
        host_network: false,
        active_deadline_s: None,
        grace_s: u32::try_from(rng.pick(&[1, 2, 5, 30])).unwrap(),
        critical: rng.percent(20),
    };
    Wish { pod: Rc::new(pod), tempers }
}

/// Probes and hooks. A process that ends by itself may have them too.
fn care(rng: &mut Rng, kind: Kind) -> Care {
    if kind == Kind::Init || rng.percent(60) {
        return Care::default();
    }
    let mut rule = |failures: u64, often: u64| {
        let (delay, period) = (rng.pick(&[0, 0, 5_000]), rng.pick(&[7_000, 20_000]));
        let grace_ms = rng.pick(&[None, None, Some(1_000), Some(60_000)]);
        let failures = u32::try_from(rng.between(1, failures)).unwrap();
        let rule = ProbeRule { initial_delay_ms: delay, period_ms: period, timeout_ms: 1_000, successes: 1, failures, grace_ms };
        rng.percent(often).then_some(rule)
    };
    // The startup probe gives its container the time it needs: else no world with it would ever settle.
    let startup = rule(3, 40).map(|r| ProbeRule { failures: 20, ..r });
    let (liveness, readiness) = (rule(3, 50), rule(3, 50));
    Care { startup, liveness, readiness, post_start: rng.percent(30), pre_stop: rng.percent(40) }
}

/// Every third pod wants the one host port there is. By number, so that the seeds of old worlds still make them.
fn object(index: u64, revision: u64) -> Pod {
    let port = ContainerPort { container_port: 1, host_port: Some(PORT), ..ContainerPort::default() };
    let ports = (index + revision).is_multiple_of(3).then(|| vec![port]);
    let spec = PodSpec { containers: vec![Container { ports, ..Container::default() }], ..PodSpec::default() };
    Pod { spec: Some(spec), ..Pod::default() }
}

/// The host port that only one pod can have.
const PORT: i32 = 80;

/// Whether a pod wants it.
pub fn wants_port(pod: &WantedPod) -> bool {
    let containers = pod.object.spec.iter().flat_map(|s| &s.containers);
    containers.flat_map(|c| c.ports.iter().flatten()).any(|p| p.host_port == Some(PORT))
}

/// Every fourth pod has an image as a volume of its first container.
fn volumes(index: u64, revision: u64, tempers: &[(Rc<str>, Temper)]) -> Vec<VolumeImage> {
    if (index + revision) % 4 != 1 {
        return Vec::new();
    }
    let image = ImageRef(IMAGES[usize::try_from(revision % 4).unwrap()].into());
    let pull = if revision.is_multiple_of(2) { PullPolicy::Always } else { PullPolicy::IfNotPresent };
    vec![VolumeImage { volume: "v".into(), image, pull, users: vec![tempers[0].0.clone()] }]
}

fn temper(rng: &mut Rng, kind: Kind, restart: RestartPolicy) -> Temper {
    let ends = match (kind, restart) {
        (Kind::Init, _) => true,
        (_, RestartPolicy::Always) => false,
        _ => rng.percent(50),
    };
    let never = restart == RestartPolicy::Never;
    Temper {
        crashes: if rng.percent(40) { u32::try_from(rng.between(1, 6)).unwrap() } else { 0 },
        crash_ms: rng.pick(&[0, 5, 900, 30_000, 700_000]),
        life_ms: ends.then(|| rng.pick(&[0, 3, 2_000, 90_000])),
        code: if ends && never && rng.percent(30) { 3 } else { 0 },
        sick: if rng.percent(30) { u32::try_from(rng.between(1, 3)).unwrap() } else { 0 },
        startup_ms: rng.pick(&[0, 0, 3_000, 40_000]),
        hook_ms: rng.pick(&[0, 10, 1_500, 50_000]),
        term_ms: (!rng.percent(25)).then(|| rng.pick(&[0, 1, 400, 4_000])),
    }
}
