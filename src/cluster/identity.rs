//! Who this node is at the API server: a certificate that was asked for (KEP-43), renewed before it expires, and the one its own API
//! is served with. A kubeconfig that somebody else keeps is left alone.
//!
//! ```text
//!  no kubeconfig, or expired ── key, request (by the bootstrap kubeconfig) ── approved and signed ── stored, kubeconfig written
//!                                  ^ the same ones after a restart                                       │
//!  401 and expired, or for minutes ┘                     70–90 % of its life: key, request, stored  <────┘  connections made anew
//! ```

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use hyper::Method;
use k8s_openapi::ByteString;
use rcgen::KeyPair;
use serde_json::json;
use tokio::sync::Notify;

use super::Cluster;
use super::credentials::{self, Certificate, Store};
use super::csr::{self, Verdict, Wish};
use super::link::Link;
use super::object::Object;
use super::watch::{News, watch};
use crate::clock::{self, Moment};
use crate::settings::Settings;
use crate::settings::kubeconfig;

/// The clock may be set at any time: a deadline of months is looked at this often.
const LOOK: Duration = Duration::from_secs(300);
/// What the disk or the API server refused is tried again after this.
const REFUSED: Duration = Duration::from_secs(10);
/// A request that was deleted is not made again before this.
const AGAIN: Duration = Duration::from_secs(5);
/// The server does not know us for so many durations of the Lease, five minutes and a bit: it is asked anew who we are (the kubelet
/// exits after five minutes without an identity, and begins anew).
const UNKNOWN_LEASES: u32 = 8;
/// How often it is looked whether the server knows us.
const KNOWN: Duration = Duration::from_secs(1);

fn client_store(settings: &Settings) -> Store {
    Store::new(&settings.cert_dir, "kubelet-client")
}

/// Whether the kubeconfig can be used by the clock; one without a certificate is somebody else's affair.
fn is_usable(kubeconfig: &Path, now_s: i64) -> bool {
    match kubeconfig::read(kubeconfig) {
        Ok(config) => config.certificate.is_none_or(|(cert, _)| Certificate::read(&cert).is_some_and(|c| c.not_after > now_s)),
        Err(_) => false,
    }
}

/// The certificate of the kubeconfig is the one stored here: it is ours to renew.
fn is_ours(kubeconfig: &Path, store: &Store) -> bool {
    let shown = kubeconfig::read(kubeconfig).ok().and_then(|config| config.certificate);
    shown.and_then(|(cert, _)| Certificate::read(&cert)).is_some_and(|cert| store.current().as_ref() == Some(&cert))
}

/// Returns when there is a kubeconfig to join with.
pub async fn begin(cluster: &Cluster) {
    let settings = &cluster.settings;
    let (Some(kubeconfig), Some(bootstrap)) = (&settings.kubeconfig, &settings.bootstrap_kubeconfig) else { return };
    if !is_usable(kubeconfig, clock::now().wall.secs()) {
        join_by(cluster, kubeconfig, bootstrap, false).await;
        cluster.waits.replace(None);
    }
}

/// Gets an identity by the bootstrap kubeconfig, and writes the kubeconfig that uses it. `anew`: the one that is stored is no good.
async fn join_by(cluster: &Cluster, kubeconfig: &Path, bootstrap: &Path, anew: bool) {
    let (settings, store) = (&cluster.settings, client_store(&cluster.settings));
    let say = |what: Option<String>| drop(cluster.waits.replace(what));
    let stored = store.current().is_some_and(|c| !anew && c.not_after > clock::now().wall.secs());
    if !stored {
        log::info!("asking for an identity by {}", bootstrap.display());
        let link = Link::new(bootstrap.to_owned(), settings.resolv_conf.clone());
        let (wish, last) = (Wish::client(&settings.node_name), RefCell::new(None));
        let note = |what: Option<String>| {
            last.replace(what.clone());
            say(what);
        };
        // While nobody answers there, that is what is to be known.
        let telling = async {
            loop {
                say(link.trouble().map(|trouble| format!("bootstrap: {trouble}")).or_else(|| last.borrow().clone()));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = link.run() => {}
            () = telling => {}
            () = obtain(&link, &store, &wish, &note) => {}
        }
    }
    loop {
        let done = match written(&store, bootstrap) {
            Ok(text) => credentials::write(kubeconfig, text.as_bytes()).await.map_err(|e| e.to_string()),
            Err(e) => Err(e),
        };
        match done {
            Ok(()) => break log::info!("wrote {}", kubeconfig.display()),
            Err(e) => {
                let what = format!("write kubeconfig {}: {e}", kubeconfig.display());
                log::warn!("{what}; it is tried again");
                say(Some(what));
                tokio::time::sleep(REFUSED).await;
            }
        }
    }
}

/// The bootstrap kubeconfig's cluster with our certificate, as a kubelet writes it.
fn written(store: &Store, bootstrap: &Path) -> Result<String, String> {
    let config = kubeconfig::read(bootstrap).map_err(|e| e.to_string())?;
    let mut cluster = json!({"server": config.server});
    if let Some(map) = cluster.as_object_mut() {
        config.unverified.then(|| map.insert("insecure-skip-tls-verify".into(), json!(true)));
        config.authority.map(|pem| map.insert("certificate-authority-data".into(), json!(ByteString(pem))));
        config.server_name.map(|name| map.insert("tls-server-name".into(), json!(name)));
    }
    let pair = store.current_path();
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "users": [{"name": "default-auth", "user": {"client-certificate": pair, "client-key": pair}}],
        "contexts": [{"name": "default-context", "context": {"cluster": "default-cluster", "user": "default-auth"}}],
        "current-context": "default-context",
    });
    // JSON is YAML.
    serde_json::to_string_pretty(&text).map(|t| t + "\n").map_err(|e| e.to_string())
}

/// Renews our identity for ever, and gets another where the server no longer knows us.
pub async fn keep(cluster: &Cluster) {
    let settings = &cluster.settings;
    let Some(kubeconfig) = &settings.kubeconfig else { return };
    loop {
        tokio::select! {
            () = renew(cluster, kubeconfig) => {}
            () = unknown(cluster, kubeconfig) => {}
        }
        let Some(bootstrap) = &settings.bootstrap_kubeconfig else { return };
        log::warn!("the API server does not know this node any more: asking for another identity");
        tokio::select! {
            () = join_by(cluster, kubeconfig, bootstrap, true) => cluster.link.renew(),
            () = known(cluster, kubeconfig) => log::info!("the API server knows this node after all"),
        }
        cluster.waits.replace(None);
    }
}

/// Returns when another identity is to be asked for, where there is somebody to ask: the server has not known us for long, or does not
/// and never will again, because what we show expired while it was away. A clock that is wrong is not enough for that.
async fn unknown(cluster: &Cluster, kubeconfig: &Path) {
    let settings = &cluster.settings;
    if settings.bootstrap_kubeconfig.is_none() {
        std::future::pending::<()>().await;
    }
    let long = Duration::from_secs(u64::from(settings.node_lease_s)) * UNKNOWN_LEASES;
    loop {
        let since = cluster.link.unknown_for();
        if since >= long || (!since.is_zero() && !is_usable(kubeconfig, clock::now().wall.secs())) {
            return;
        }
        tokio::time::sleep(KNOWN).await;
    }
}

/// Returns when the server knows us after all: somebody else wrote the kubeconfig anew, or the server came to its senses.
async fn known(cluster: &Cluster, kubeconfig: &Path) {
    while !cluster.link.is_up() || !cluster.link.unknown_for().is_zero() || !is_usable(kubeconfig, clock::now().wall.secs()) {
        tokio::time::sleep(KNOWN).await;
    }
}

async fn renew(cluster: &Cluster, kubeconfig: &Path) {
    let (settings, store) = (&cluster.settings, client_store(&cluster.settings));
    let (wish, mut not_before) = (Wish::client(&settings.node_name), Moment::default());
    loop {
        let ours = settings.rotate_certificates && is_ours(kubeconfig, &store);
        match if ours { due(&store, &wish, not_before) } else { Some(LOOK) } {
            Some(wait) => tokio::time::sleep(wait.min(LOOK)).await,
            None => {
                obtain(&cluster.link, &store, &wish, &|_| ()).await;
                not_before = half_a_life(&store);
                cluster.link.renew();
            }
        }
    }
}

/// Keeps a certificate for our own API, where one is to be asked for.
pub async fn serve(cluster: &Cluster) {
    let settings = &cluster.settings;
    let (store, mut not_before) = (Store::new(&settings.cert_dir, "kubelet-server"), Moment::default());
    // One that is given is somebody else's to renew.
    let wanted = settings.server_tls_bootstrap && settings.api.listens().is_some();
    if !wanted || settings.api.cert_file.as_ref().is_some_and(|given| *given != store.current_path()) {
        return;
    }
    let names = std::iter::once(settings.node_name.clone()).chain(settings.node_ips.iter().map(ToString::to_string));
    let wish = Wish::serving(&settings.node_name, names.collect());
    loop {
        match due(&store, &wish, not_before) {
            Some(wait) => tokio::time::sleep(wait.min(LOOK)).await,
            None => {
                obtain(&cluster.link, &store, &wish, &|_| ()).await;
                not_before = half_a_life(&store);
            }
        }
    }
}

/// How long what is stored needs no renewal; `None`: it needs one, or there is none that fits.
fn due(store: &Store, wish: &Wish, not_before: Moment) -> Option<Duration> {
    let now = clock::now();
    let fits = store.current().filter(|c| wish.names.iter().all(|name| c.covers(name)));
    let left = fits.and_then(|c| u64::try_from(c.renew_at() - now.wall.secs()).ok()).filter(|s| *s > 0);
    let held = Some(not_before - now.mono).filter(|d| !d.is_zero());
    left.map(Duration::from_secs).max(held)
}

/// A clock that is wrong makes a new certificate look due: it is not renewed before half of its life has passed here.
fn half_a_life(store: &Store) -> Moment {
    let life = store.current().map_or(0, |c| u64::try_from(c.not_after - c.not_before).unwrap_or(0));
    clock::now().mono + Duration::from_secs(life / 2)
}

/// Has a key signed and stores what comes of it; returns when that is done. `say` is told what it waits for.
async fn obtain(link: &Link, store: &Store, wish: &Wish, say: &impl Fn(Option<String>)) {
    let told = RefCell::new(String::new());
    let say = |what: String| {
        if *told.borrow() != what {
            log::warn!("{what}");
            told.replace(what.clone());
        }
        say(Some(what));
    };
    let key = loop {
        match store.pending().await {
            Ok(key) => break key,
            Err(e) => say(format!("make a key in {}: {e}; it is tried again", store.current_path().display())),
        }
        tokio::time::sleep(REFUSED).await;
    };
    let name = wish.name(&key);
    let seen = RefCell::new(None);
    let moved = Notify::new();
    let tell = |news: News| {
        match news {
            News::Refused(why) => return say(format!("look for certificate requests: {why}; it is tried again")),
            News::All(mut all, _) => seen.replace(Some(all.pop())),
            News::Is(object) => seen.replace(Some(Some(object))),
            News::Gone(_) => seen.replace(Some(None)),
        };
        moved.notify_one();
    };
    let request = Request { link, store, wish, name: &name, key: &key, made: Cell::default() };
    let deciding = async {
        loop {
            let object: Option<Option<Object>> = seen.borrow().clone();
            let again = match object {
                None => None,
                Some(object) => match request.step(object, &say).await {
                    Step::Done => return,
                    Step::Wait => None,
                    Step::Again(pause) => Some(pause),
                },
            };
            tokio::select! {
                () = moved.notified() => {}
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
            }
        }
    };
    let own = format!("metadata.name={name}");
    tokio::select! {
        () = watch(link, csr::PATH, &own, tell) => {}
        () = deciding => {}
    }
}

struct Request<'a> {
    link: &'a Link,
    store: &'a Store,
    wish: &'a Wish,
    name: &'a str,
    key: &'a KeyPair,
    /// When it was last made.
    made: Cell<Option<Moment>>,
}

enum Step {
    Done,
    /// Until the request changes.
    Wait,
    /// After this, changed or not.
    Again(Duration),
}

impl Request<'_> {
    async fn step(&self, object: Option<Object>, say: &impl Fn(String)) -> Step {
        let name = self.name;
        let Some(object) = object else { return self.make(say).await };
        match csr::verdict(&object.status) {
            Verdict::Waits { approved: false } => {
                say(format!("certificate request {name} waits for approval: kubectl certificate approve {name}"));
                Step::Wait
            }
            Verdict::Waits { approved: true } => {
                say(format!("certificate request {name} is approved and waits for its signer (kube-controller-manager)"));
                Step::Wait
            }
            Verdict::Refused(why) => {
                say(format!("certificate request {name} was {why}: once it is deleted (kubectl delete csr {name}), it is made again"));
                Step::Wait
            }
            Verdict::Signed(pem) => match Certificate::read(&pem).filter(|c| c.public_key == credentials::public_key(self.key)) {
                None => {
                    say(format!("certificate request {name} came back with a certificate of another key: delete it, and it is made again"));
                    Step::Wait
                }
                Some(certificate) => match self.store.keep(&pem, self.key, clock::now().wall).await {
                    Ok(()) => {
                        let until = clock::Wall(certificate.not_after.saturating_mul(1_000_000_000));
                        log::info!("certificate request {name} is signed: {} until {until}", self.store.current_path().display());
                        Step::Done
                    }
                    Err(e) => {
                        say(format!("store {}: {e}; it is tried again", self.store.current_path().display()));
                        Step::Again(REFUSED)
                    }
                },
            },
        }
    }

    async fn make(&self, say: &impl Fn(String)) -> Step {
        let now = clock::now().mono;
        if let Some(due) = self.made.get().map(|at| at + AGAIN).filter(|due| *due > now) {
            return Step::Again(due - now);
        }
        let object = match self.wish.object(self.key) {
            Ok(object) => object,
            Err(e) => {
                say(format!("make a certificate request: {e}"));
                return Step::Again(REFUSED);
            }
        };
        self.link.up().await;
        match self.link.ask::<Object>(Method::POST, csr::PATH, "application/json", Some(&object)).await {
            Ok(_) => {
                log::info!("asked for a certificate: request {}", self.name);
                self.made.set(Some(now));
                Step::Wait
            }
            // The watch tells of it.
            Err(e) if e.code() == Some(409) => Step::Wait,
            // The link says what is wrong, and waits.
            Err(e) if e.is_general() => Step::Again(Duration::from_millis(200)),
            Err(e) => {
                say(format!("ask for a certificate: {e}; it is tried again"));
                Step::Again(REFUSED)
            }
        }
    }
}
