//! What pods look like from outside, in worlds written as the cases are.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use plinth::clock::{Moment, Now};
use plinth::plan::action::{Action, Answer, Check, Class, Effect, Event, Failure, Outcome, Why};
use plinth::plan::status::{self, summary};
use plinth::plan::view::Scene;
use plinth::plan::world::{SeenPod, World};
use plinth::plan::{apply, record, why};
use plinth::pod::{Hook, ImageRef, Probe, PullPolicy, Uid};

use crate::read;

fn world(text: &str) -> (World, Now) {
    read::world(text).unwrap()
}

fn pod_status(world: &World, uid: &Uid, now: Now) -> PodStatus {
    status::pod_status(&Scene::new(world, now.mono), uid, now.wall)
}

fn status(text: &str) -> PodStatus {
    let (world, now) = world(text);
    pod_status(&world, &Uid("u1".into()), now)
}

/// A look at pod u1 finds this.
fn look(world: &mut World, seen: SeenPod, now: Now) {
    let look = Action::Look { uid: Uid("u1".into()) };
    apply(world, Event::Started(look.clone(), Why("".into())), now);
    apply(world, Event::Ended(look, Outcome::Done(Effect::Pod(Some(Box::new(seen))))), now);
}

fn line(text: &str) -> String {
    let (world, now) = world(text);
    let s = summary(&world, &Uid("u1".into()), now);
    format!("{}/{} {} {}", s.ready, s.total, s.status, s.restarts)
}

fn conditions(status: &PodStatus) -> String {
    let told = status.conditions.iter().flatten().map(|c| {
        let reason = c.reason.as_ref().map(|r| format!("({r})")).unwrap_or_default();
        format!("{}={}{reason}", c.type_, c.status)
    });
    told.collect::<Vec<_>>().join(" ")
}

fn waiting(c: &ContainerStatus) -> (String, String) {
    let w = c.state.clone().unwrap().waiting.unwrap();
    (w.reason.unwrap_or_default(), w.message.unwrap_or_default())
}

const RUNNING: &str = "pod web u1\n  init one\n  sidecar proxy\n  main b\n  main a\nseen u1 sandbox=ready\n  one 0 dead code=0\n  proxy 0 running\n  b 2 running\n  a 0 running\n";

#[test]
fn a_running_pod_is_ready_in_every_way() {
    let s = status(RUNNING);
    assert_eq!(s.phase.as_deref(), Some("Running"));
    assert_eq!(conditions(&s), "PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True PodScheduled=True");
    assert_eq!(s.pod_ip.as_deref(), Some("10.0.0.2"));
    let names = |list: &Option<Vec<ContainerStatus>>| list.iter().flatten().map(|c| c.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&s.container_statuses), ["a", "b"], "by name");
    assert_eq!(names(&s.init_container_statuses), ["one", "proxy"], "in spec order");
    let b = &s.container_statuses.unwrap()[1];
    assert_eq!((b.restart_count, b.ready, b.started), (2, true, Some(true)));
    assert_eq!(b.container_id.as_deref(), Some("containerd://u1-b-2"));
    assert_eq!(line(RUNNING), "3/3 Running 2");
}

#[test]
fn a_readiness_gate_keeps_a_pod_from_being_ready_and_is_named() {
    let (mut world, now) = world(RUNNING);
    let uid = Uid("u1".into());
    for seen in world.wanted.pods.values_mut().chain(world.seen.pods.values_mut().filter_map(|s| s.made_from.as_mut())) {
        let mut object = (*seen.object).clone();
        object.spec.as_mut().unwrap().readiness_gates =
            Some(vec![k8s_openapi::api::core::v1::PodReadinessGate { condition_type: "example.org/let-in".into() }]);
        *seen = std::rc::Rc::new(plinth::pod::WantedPod { object: std::rc::Rc::new(object), ..(**seen).clone() });
    }
    let s = pod_status(&world, &uid, now);
    assert!(conditions(&s).contains("Ready=False(ReadinessGatesNotReady) ContainersReady=True"), "{}", conditions(&s));
    let said = s.conditions.unwrap()[2].message.clone().unwrap();
    assert_eq!(said, "corresponding condition of pod readiness gate \"example.org/let-in\" does not exist.");
}

#[test]
fn a_container_is_ready_after_as_many_successes_in_a_row_as_its_probe_wants() {
    let is_ready = |answers: &[&str]| {
        let said: String = answers.iter().map(|a| format!("  said u1-app-0 readiness {a}\n")).collect();
        let s = status(&format!("pod web u1\n  main app readiness=0/1/3/1\nseen u1 sandbox=ready\n  app 0 running\nmemory u1\n{said}"));
        assert_eq!(s.container_statuses.as_ref().unwrap()[0].ready, conditions(&s).contains(" Ready=True"));
        s.container_statuses.unwrap()[0].ready
    };
    assert!(!is_ready(&["failed"]));
    assert!(!is_ready(&["failed", "passed 2"]));
    assert!(is_ready(&["failed", "passed 3"]));
    assert!(!is_ready(&["failed", "passed 2", "failed", "passed 2"]), "in a row");
    assert!(is_ready(&["failed", "passed 2", "errored", "passed"]), "an error counts for nothing");
    assert!(!is_ready(&["failed", "passed 3", "failed"]), "one failure is enough here");
}

#[test]
fn what_a_probe_finds_is_told_in_the_kubelets_words() {
    let (world, _) = world(RUNNING);
    let check = Check { uid: Uid("u1".into()), id: "u1-a-0".into(), name: "a".into(), probe: Probe::Readiness };
    let told = |answer| record::answered(&world, &check, &answer).map(|n| (n.reason, n.warning, n.message));
    assert_eq!(told(Answer::Passed), None);
    let warned = |reason, message: &str| Some((reason, true, message.to_owned()));
    assert_eq!(told(Answer::Failed("no".into())), warned("Unhealthy", "Readiness probe failed: no"));
    assert_eq!(told(Answer::Errored("no".into())), warned("Unhealthy", "Readiness probe errored and resulted in unknown state: no"));
    assert_eq!(told(Answer::Warned("away".into())), warned("ProbeWarning", "Readiness probe warning: away"));
}

#[test]
fn a_pod_that_begins_is_pending_and_says_what_it_waits_for() {
    let s = status("pod web u1\n  main app\n");
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert_eq!(
        conditions(&s),
        "PodReadyToStartContainers=False Initialized=True Ready=False(ContainersNotReady) ContainersReady=False(ContainersNotReady) PodScheduled=True"
    );
    assert_eq!(s.conditions.unwrap()[2].message.as_deref(), Some("containers with unready status: [app]"));
    assert_eq!(line("pod web u1\n  main app\n"), "0/1 ContainerCreating 0");
}

#[test]
fn an_initialising_pod_counts_its_init_containers() {
    let text =
        "pod web u1\n  init one\n  init two\n  main app\nimage a ready\nseen u1 sandbox=ready\n  one 0 dead code=0\n  two 0 running\n";
    let s = status(text);
    assert_eq!(s.phase.as_deref(), Some("Pending"));
    assert!(conditions(&s).contains("Initialized=False(ContainersNotInitialized)"));
    assert_eq!(waiting(&s.container_statuses.unwrap()[0]).0, "PodInitializing");
    assert_eq!(line(text), "0/1 Init:1/2 0");
}

#[test]
fn a_crash_loop_reads_as_the_kubelets() {
    let text = "pod web u1\n  main app\nimage a ready\nseen u1 sandbox=ready\n  app 3 dead code=1 ended=90s\nmemory u1\n  crash app delay=300s booked=85s\n";
    let s = status(text);
    assert_eq!(s.phase.as_deref(), Some("Running"));
    let app = &s.container_statuses.unwrap()[0];
    let message = "back-off 5m0s restarting failed container=app pod=web_default(u1)";
    assert_eq!(waiting(app), ("CrashLoopBackOff".into(), message.into()));
    assert_eq!(app.last_state.clone().unwrap().terminated.unwrap().exit_code, 1);
    assert_eq!(app.restart_count, 3);
    assert_eq!(line(text), "0/1 CrashLoopBackOff 3");
    let (world, now) = world(text);
    let why = why(&world, &Uid("u1".into()), now);
    assert_eq!((why.on.as_deref(), why.next), (Some("the crash back-off of app"), Some(Moment(390_000))));
}

#[test]
fn between_an_end_and_an_immediate_restart_the_end_is_shown() {
    let s = status("pod web u1\n  main app\nimage a ready\nseen u1 sandbox=ready\n  app 0 exited code=7\n");
    let state = s.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 7);
}

#[test]
fn a_container_whose_record_vanished_while_it_ran_is_told_as_the_kubelet_tells_it() {
    let (mut world, now) =
        world("pod web u1\n  main app\n  main half\nimage a ready\nseen u1 sandbox=ready\n  app 2 running\n  half 0 record\n");
    let uid = Uid("u1".into());
    let mut seen = world.seen.pods[&uid].clone();
    seen.containers.clear();
    look(&mut world, seen, now);
    let s = pod_status(&world, &uid, now);
    let [app, half] = &s.container_statuses.clone().unwrap()[..] else { panic!("{s:?}") };
    assert_eq!((waiting(app).0.as_str(), app.restart_count), ("ContainerCreating", 3));
    let last = app.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert!(last.message.unwrap().ends_with("The container used to be Running"));
    assert_eq!((half.restart_count, half.last_state.clone().unwrap().terminated), (0, None), "it never ran");
}

#[test]
fn an_attempt_made_for_a_lost_record_is_no_crash() {
    let text = |seen: &str| format!("pod web u1\n  main app\nimage a ready\nseen u1 sandbox=ready\n  app {seen}\n");
    let (mut world, now) = world(&text("0 running"));
    let uid = Uid("u1".into());
    for seen in ["1 running", "1 exited code=1 ended=99s"] {
        look(&mut world, read::world(&text(seen)).unwrap().0.seen.pods[&uid].clone(), now);
    }
    let next = plinth::plan::plan(&world, now).actions.into_iter().map(|(action, _)| action.to_string()).collect::<Vec<_>>();
    assert!(next[0].contains("CreateContainer app 2"), "its first crash is followed at once: {next:?}");
}

#[test]
fn hooks_and_rounds_that_end_a_container_are_what_it_waits_for() {
    let text = |state: &str| format!("pod web u1\n  main app post-start\nimage a ready\nseen u1 sandbox=ready\n  app 0 {state}\n");
    let (mut world, now) = world(&(text("running") + "memory u1\n  said u1-app-0 post-start failed\n"));
    let uid = Uid("u1".into());
    let told = |hook| record::hooked(&world, &uid, "u1-app-0", hook, Some("no")).map(|n| (n.reason, n.message));
    assert_eq!(told(Hook::PostStart), Some(("FailedPostStartHook", "PostStartHook failed".into())));
    assert_eq!(told(Hook::PreStop), Some(("FailedPreStopHook", "PreStopHook failed".into())));
    look(&mut world, read::world(&text("exited code=137 ended=99s")).unwrap().0.seen.pods[&uid].clone(), now);
    assert_eq!(waiting(&pod_status(&world, &uid, now).container_statuses.unwrap()[0]).0, "PostStartHookError");

    let round = status(include_str!("cases/restart-all-goes-on-half-way.txt").split("---").next().unwrap());
    assert_eq!(waiting(&round.container_statuses.unwrap()[1]).0, "RestartingAllContainers");
}

#[test]
fn a_pull_that_fails_is_err_image_pull_then_image_pull_back_off() {
    let (mut world, now) = world("pod web u1\n  main app\nimage a absent\nseen u1 sandbox=ready\n");
    let action = Action::PrepareImage { image: ImageRef("a".into()), pull: PullPolicy::IfNotPresent };
    apply(&mut world, Event::Started(action.clone(), Why("".into())), now);
    let failure = Failure { class: Class::Retry, reason: "ErrImagePull".into(), message: "no such host".into() };
    let told = record::ended(&world, &action, &Outcome::Failed(failure.clone()), now);
    assert_eq!(told.iter().map(|n| n.reason).collect::<Vec<_>>(), ["Failed", "Failed", "BackOff", "Failed"]);
    assert_eq!(told.iter().map(|n| &*n.message).nth(1), Some("Error: ErrImagePull"));
    apply(&mut world, Event::Ended(action, Outcome::Failed(failure)), now);
    let at = |ms: u64| {
        let now = Now { mono: Moment(now.mono.0 + ms), ..now };
        waiting(&pod_status(&world, &Uid("u1".into()), now).container_statuses.unwrap()[0])
    };
    assert_eq!(at(0), ("ErrImagePull".into(), "no such host".into()));
    assert_eq!(at(2_000).0, "ImagePullBackOff");
    assert!(at(2_000).1.ends_with("ErrImagePull: no such host"), "{}", at(2_000).1);
}

#[test]
fn finished_pods_have_succeeded_or_failed() {
    for (code, phase, word) in [(0, "Succeeded", "Completed"), (3, "Failed", "Error")] {
        let text = format!("pod job u1\n  main work restart=Never\nseen u1\n  work 0 dead code={code}\n");
        let s = status(&text);
        assert_eq!(s.phase.as_deref(), Some(phase));
        let reason = if code == 0 { "PodCompleted" } else { "PodFailed" };
        assert!(conditions(&s).contains(&format!("Ready=False({reason}) ContainersReady=False({reason})")), "{}", conditions(&s));
        assert_eq!(line(&text), format!("0/1 {word} 0"));
    }
}

#[test]
fn what_a_shutdown_ended_has_failed_and_what_was_over_before_stays_as_it_was() {
    let text = |state: &str, restart: &str| {
        format!("shutdown since=90s grace=30s\npod web u1\n  main app restart={restart}\nseen u1\n  app 0 {state}\n")
    };
    let s = status(&text("dead code=0", "Always"));
    assert_eq!((s.phase.as_deref(), s.reason.as_deref()), (Some("Failed"), Some("Terminated")));
    assert_eq!(s.message.as_deref(), Some("Pod was terminated in response to imminent node shutdown."));
    assert!(conditions(&s).starts_with("DisruptionTarget=True(TerminationByKubelet) "), "{}", conditions(&s));
    let s = status(&text("running", "Always"));
    assert_eq!((s.phase.as_deref(), s.reason), (Some("Running"), None), "not while it runs");
    let s = status(&text("dead code=0", "Never"));
    assert_eq!((s.phase.as_deref(), s.reason), (Some("Succeeded"), None));
    let s = status(&(text("dead code=143", "Never") + "memory u1\n  stop u1-app-0 asked=91s kill=121s\n"));
    assert_eq!((s.phase.as_deref(), s.reason.as_deref()), (Some("Failed"), Some("Terminated")), "it was ended");
}

#[test]
fn an_unwanted_pod_is_terminating_and_keeps_its_phase() {
    let text = "pod web u9\n  main app\nseen u1 sandbox=ready name=web\n  app 0 running\n";
    assert_eq!(status(text).phase.as_deref(), Some("Running"));
    assert_eq!(line(text), "1/1 Terminating 0");
}

#[test]
fn a_transition_time_stays_until_the_condition_turns() {
    let (mut world, now) = world(RUNNING);
    let uid = Uid("u1".into());
    let ready = |world: &World, now: Now| pod_status(world, &uid, now).conditions.unwrap()[2].clone();
    let first = ready(&world, now);
    let later = Now { mono: Moment(now.mono.0 + 5_000), wall: plinth::clock::Wall(now.wall.0 + 5_000_000_000) };
    assert_eq!(ready(&world, later).last_transition_time, first.last_transition_time);
    let mut gone = world.seen.pods[&uid].clone();
    gone.containers.retain(|id, _| !id.contains("-a-"));
    look(&mut world, gone, later);
    let turned = ready(&world, later);
    assert_eq!(turned.status, "False");
    assert_ne!(turned.last_transition_time, first.last_transition_time);
}

#[test]
fn a_hundred_settled_pods_are_planned_in_no_time() {
    use std::fmt::Write;
    let mut text = String::new();
    for i in 0..100 {
        writeln!(
            text,
            "pod web{i} u{i}\n  init one\n  main app\n  main log\nseen u{i} sandbox=ready\n  one 0 dead\n  app 0 running\n  log 0 running"
        )
        .unwrap();
    }
    let (world, now) = world(&text);
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        assert!(plinth::plan::plan(&world, now).actions.is_empty());
    }
    let each = begun.elapsed() / 20;
    println!("{each:?} for 100 pods");
    // Generous: other tests run beside this one, and without optimisation.
    assert!(each.as_millis() < 20, "{each:?} for 100 pods");
}

#[test]
fn what_is_wrong_with_the_node_is_told_of_the_node() {
    let (world, now) = world("pod web u1\n  main app\nseen u1 sandbox=ready\n  app 0 dead\n");
    let told = record::told(&world, None, "SystemOOM", "System OOM encountered").unwrap();
    assert_eq!((told.kind, &*told.key.name, told.warning), ("Node", "n1", true));
    let of_pod = record::told(&world, Some(&Uid("u1".into())), "DNSConfigForming", "too many").unwrap();
    assert_eq!((of_pod.kind, &*of_pod.key.name), ("Pod", "web"));
    assert_eq!(record::told(&world, Some(&Uid("gone".into())), "DNSConfigForming", "too many"), None);
    let failed = |class| Outcome::Failed(Failure { class, reason: "KillContainerError".into(), message: "disk full".into() });
    let action = Action::DeleteContainer { uid: Uid("u1".into()), id: "app-0".into() };
    let notes = record::ended(&world, &action, &failed(Class::Retry), now);
    assert_eq!(notes.iter().map(|n| (n.kind, n.reason, &*n.message)).collect::<Vec<_>>(), [("Node", "ContainerGCFailed", "disk full")]);
    assert!(record::ended(&world, &action, &failed(Class::Unreachable), now).is_empty(), "a containerd that is away is told of elsewhere");
    assert_eq!(record::shutting_down(&world).reason, "Shutdown");
}

#[test]
fn what_becomes_of_images_and_sandboxes_is_told_under_the_kubelets_reasons() {
    let (world, now) = world("pod web u1\n  main app\nimage a absent\nseen u1 sandbox=partial\n");
    let uid = || Uid("u1".into());
    let begun = |action| record::started(&world, &action).into_iter().map(|n| (n.reason, n.warning, n.message)).collect::<Vec<_>>();
    let failed = |action| {
        let failure = Failure { class: Class::Retry, reason: "KillPodSandboxError".into(), message: "no".into() };
        record::ended(&world, &action, &Outcome::Failed(failure), now)
            .into_iter()
            .map(|n| (n.reason, n.warning, n.message))
            .collect::<Vec<_>>()
    };
    let one = |reason, warning, message: &str| vec![(reason, warning, message.to_owned())];
    let pull = |pull| Action::PrepareImage { image: ImageRef("a".into()), pull };
    assert_eq!(begun(pull(PullPolicy::IfNotPresent)), one("Pulling", false, "Pulling image \"a\""));
    assert_eq!(begun(pull(PullPolicy::Never)), [], "nobody is asked for it");
    let changed = "Pod sandbox changed, it will be killed and re-created.";
    assert_eq!(begun(Action::DeleteSandbox { uid: uid(), keep: true }), one("SandboxChanged", false, changed));
    assert_eq!(begun(Action::DeleteSandbox { uid: uid(), keep: false }), []);
    assert_eq!(failed(Action::CreateSandbox { uid: uid() }), one("FailedCreatePodSandBox", true, "Failed to create pod sandbox: no"));
    assert_eq!(failed(Action::DeleteSandbox { uid: uid(), keep: false }), one("FailedKillPod", true, "error killing pod: no"));
}

#[test]
fn an_image_nobody_can_look_for_is_told_as_the_kubelet_tells_it() {
    let (world, now) = world("pod web u1\n  main app\nimage a absent\nseen u1 sandbox=ready\n");
    let action = Action::PrepareImage { image: ImageRef("a".into()), pull: PullPolicy::Never };
    let failure = Failure { class: Class::Retry, reason: "ImageInspectError".into(), message: "no".into() };
    let told = record::ended(&world, &action, &Outcome::Failed(failure.clone()), now);
    let told: Vec<_> = told.iter().map(|n| (n.reason, &*n.message)).collect();
    assert_eq!(told, [("InspectFailed", "Failed to inspect image \"a\": no"), ("Failed", "Error: ImageInspectError")]);
    let away = Failure { class: Class::Unreachable, ..failure };
    assert!(record::ended(&world, &action, &Outcome::Failed(away), now).is_empty());
}
