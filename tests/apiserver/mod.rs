//! An API server for tests: on loopback, with TLS, with the Node and RBAC authorizers' and NodeRestriction's recorded answers
//! (`rules.jsonl`), resourceVersions, uids and watches. It can be away, refuse, stall, drop, lie and be slow on command.
//!
//! It runs on a thread of its own; what a test asks of it is asked through [`ApiServer`]. Another test takes it in by
//! `#[path = "../apiserver/mod.rs"] mod apiserver;`.
#![allow(dead_code, reason = "each test uses its part")]

mod admit;
mod csr;
mod http;
mod merge;
mod node;
mod store;
mod strict;
mod table;
pub mod tls;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch::Sender;

use store::Store;

/// What is wrong with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Fault {
    #[default]
    None,
    /// Connections are reset as they come; open ones are closed.
    Away,
    /// Packets are dropped: nothing is read, nothing is written, nothing is closed.
    BlackHole,
    /// Requests are taken and never answered.
    Stall,
    /// Watches tell nothing.
    Blind,
    /// A webhook of new pods takes so long.
    SlowHook(Duration),
    /// Events take so long.
    SlowEvents(Duration),
    /// Answers stop in the middle of their body.
    HalfBody,
    /// Each request gets this code, with `Retry-After` where one is given, s.
    Code(u16, Option<u32>),
    /// Each answer is no JSON.
    Garbage,
    /// By the client's clock its certificate is not good yet, or no more; open connections are closed.
    Untimely(tls::When),
}

/// One request as it was answered.
#[derive(Clone)]
pub struct Asked {
    pub at: Instant,
    pub user: String,
    pub method: String,
    pub path: String,
    pub code: u16,
    pub body: Value,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s ago {} {} {} -> {}", self.at.elapsed().as_secs_f32(), self.user, self.method, self.path, self.code)
    }
}

/// Looks at a new pod before it is stored: may change it, or refuse it with a code, a reason and a message.
pub type Webhook = Box<dyn FnMut(&mut Value) -> Result<(), (u16, &'static str, String)> + Send>;

struct State {
    store: Store,
    fault: Fault,
    asked: Vec<Asked>,
    webhook: Option<Webhook>,
    /// Certificates and tokens: to whom they belong.
    tokens: BTreeMap<String, String>,
    certificates: BTreeMap<Vec<u8>, String>,
    /// User, verb and subresource of nodes that are allowed.
    grants: std::collections::BTreeSet<[String; 3]>,
    /// Certificates of an earlier life are known by their names.
    by_name: bool,
    /// Certificate requests are approved as they come, for certificates that live so long.
    approves: Option<Duration>,
}

/// A running API server; it ends with this.
pub struct ApiServer {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    ca: tls::Authority,
    /// A number that changes with every object and every fault.
    moved: Sender<u64>,
    /// A number that changes when all connections are to be closed, and when watches are to end.
    cut: Sender<u64>,
    /// How often the way here forgot its connections: older ones are silent for ever.
    forgot: std::sync::atomic::AtomicU64,
    ended: Sender<bool>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn fault(&self) -> Fault {
        self.state().fault.clone()
    }

    fn stir(&self) {
        self.moved.send_modify(|n| *n += 1);
    }
}

impl ApiServer {
    /// On a free port of this network namespace's loopback.
    pub fn start() -> ApiServer {
        ApiServer::on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// On a listener, perhaps of another network namespace.
    pub fn on(listener: TcpListener) -> ApiServer {
        let addr = listener.local_addr().unwrap();
        ApiServer::with(listener, addr, tls::Authority::new(), false, true)
    }

    /// One that speaks nothing but HTTP/1.1.
    pub fn of_http1() -> ApiServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        ApiServer::with(listener, addr, tls::Authority::new(), false, false)
    }

    /// With an authority that is kept in a directory, for clients that were made known in an earlier life; `addr`: what they know it by.
    pub fn of(listener: TcpListener, addr: SocketAddr, pki: &Path) -> ApiServer {
        ApiServer::with(listener, addr, tls::Authority::kept(&pki.join("ca.key")), true, true)
    }

    fn with(listener: TcpListener, addr: SocketAddr, ca: tls::Authority, by_name: bool, h2: bool) -> ApiServer {
        let state = State {
            store: Store::new(),
            fault: Fault::None,
            asked: Vec::new(),
            webhook: None,
            tokens: BTreeMap::from([("admin".into(), "admin".into())]),
            certificates: BTreeMap::new(),
            by_name,
            approves: None,
            grants: Default::default(),
        };
        let mut config = ca.server(&addr.ip().to_string());
        if !h2 {
            Arc::make_mut(&mut config).alpn_protocols = vec![b"http/1.1".to_vec()];
        }
        let (moved, cut, ended) = (Sender::new(0), Sender::new(0), Sender::new(false));
        let shared = Arc::new(Shared { state: Mutex::new(state), ca, moved, cut, forgot: Default::default(), ended });
        listener.set_nonblocking(true).unwrap();
        let served = shared.clone();
        std::thread::spawn(move || wire::serve(listener, config, served));
        ApiServer { addr, shared }
    }

    /// The same server on another listener too, of the same address in another network namespace.
    pub fn also_on(&self, listener: TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let (config, served) = (self.shared.ca.server(&self.addr.ip().to_string()), self.shared.clone());
        std::thread::spawn(move || wire::serve(listener, config, served));
    }

    /// A kubeconfig with inline data for a user by client certificate.
    pub fn kubeconfig(&self, user: &str) -> String {
        let (cert, key) = self.identity(user);
        self.config(&format!("client-certificate-data: {}, client-key-data: {}", tls::base64(&cert), tls::base64(&key)))
    }

    /// A new certificate of a user and its key, PEM.
    pub fn identity(&self, user: &str) -> (String, String) {
        let (cert, key, der) = self.shared.ca.client(user);
        self.shared.state().certificates.insert(der, user.into());
        (cert, key)
    }

    /// A kubeconfig for a user by a certificate and a key in files.
    pub fn kubeconfig_of_files(&self, cert: &Path, key: &Path) -> String {
        self.config(&format!("client-certificate: {}, client-key: {}", cert.display(), key.display()))
    }

    /// A kubeconfig for a user by the token in a file.
    pub fn kubeconfig_of_token_file(&self, path: &str) -> String {
        self.config(&format!("tokenFile: {path}"))
    }

    fn config(&self, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: k\n  cluster: {{server: \"https://{}\", certificate-authority-data: {}}}\nusers:\n- name: u\n  user: {{{user}}}\ncontexts:\n- name: c\n  context: {{cluster: k, user: u}}\n",
            self.addr,
            tls::base64(self.shared.ca.pem())
        )
    }

    /// A kubeconfig for a user by a token.
    pub fn kubeconfig_of_token(&self, token: &str) -> String {
        self.config(&format!("token: {token}"))
    }

    /// Approves certificate requests as they come, or leaves that to somebody.
    pub fn approves(&self, life: Option<Duration>) {
        self.shared.state().approves = life;
    }

    /// As an administrator: says yes to a certificate request, or no with a message.
    pub fn decide(&self, request: &str, answer: Result<Duration, &str>) {
        csr::decide(&self.shared, &mut self.shared.state(), request, answer);
        self.shared.stir();
    }

    /// Makes a token good for a user; `None`: no more.
    pub fn token(&self, token: &str, user: Option<&str>) {
        let mut state = self.shared.state();
        match user {
            Some(user) => drop(state.tokens.insert(token.into(), user.into())),
            None => drop(state.tokens.remove(token)),
        }
    }

    /// Lets a user do something at nodes: a verb on a subresource.
    pub fn grant(&self, user: &str, verb: &str, subresource: &str) {
        self.shared.state().grants.insert([user, verb, subresource].map(str::to_owned));
    }

    /// Whose certificates are good here, PEM.
    pub fn authority(&self) -> String {
        self.shared.ca.pem()
    }

    /// A certificate and key, PEM, for a server at that address.
    pub fn certificate(&self, ip: &str) -> (String, String) {
        self.shared.ca.serving(vec![ip.to_owned()])
    }

    /// The client certificates that are good.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        self.shared.state().certificates.keys().cloned().collect()
    }

    /// These are good no more.
    pub fn revoke(&self, certificates: &[Vec<u8>]) {
        self.shared.state().certificates.retain(|c, _| !certificates.contains(c));
    }

    pub fn fault(&self, fault: Fault) {
        let cut = matches!(fault, Fault::Away | Fault::Untimely(_));
        self.shared.state().fault = fault;
        self.shared.stir();
        if cut {
            self.cut();
        }
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|n| *n += 1);
    }

    /// Every connection is silent from now on and nobody is told, as where a router lost its state.
    pub fn forget(&self) {
        self.shared.forgot.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Forgets the history: every watch gets 410 and its client has to list again.
    pub fn compact(&self) {
        self.shared.state().store.compact();
        self.shared.stir();
    }

    /// Forgets the history before that version.
    pub fn compact_to(&self, version: u64) {
        self.shared.state().store.compact_to(version);
    }

    /// The version the last bookmark of a resource told.
    pub fn bookmarked(&self, resource: &str) -> u64 {
        self.shared.state().store.bookmarked.get(resource).copied().unwrap_or(0)
    }

    pub fn webhook(&self, webhook: Option<Webhook>) {
        self.shared.state().webhook = webhook;
    }

    /// An object as it is; `Null` when there is none.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Value {
        self.shared.state().store.get(resource, namespace, name).cloned().unwrap_or_default()
    }

    /// Every object of a resource.
    pub fn list(&self, resource: &str) -> Vec<Value> {
        self.shared.state().store.objects.iter().filter(|((r, ..), _)| r == resource).map(|(_, o)| o.clone()).collect()
    }

    /// As an administrator: makes an object.
    pub fn put(&self, resource: &str, namespace: &str, object: Value) -> Value {
        let made = self.shared.state().store.create(resource, namespace, object);
        self.shared.stir();
        made
    }

    /// As an administrator: changes an object in place.
    pub fn edit(&self, resource: &str, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut state = self.shared.state();
        let mut object = state.store.get(resource, namespace, name).cloned().unwrap();
        edit(&mut object);
        state.store.update(resource, namespace, object);
        drop(state);
        self.shared.stir();
    }

    /// As an administrator: removes an object at once.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let gone = self.shared.state().store.delete(resource, namespace, name).is_some();
        self.shared.stir();
        gone
    }

    /// Its objects, for another life.
    pub fn dump(&self) -> Value {
        self.shared.state().store.dump()
    }

    /// Takes up an earlier life's objects.
    pub fn restore(&self, kept: &Value) {
        self.shared.state().store.restore(kept);
        self.stir();
    }

    /// Goes back to what it was then, as when a backup of its etcd is restored: versions too.
    pub fn rewind(&self, kept: &Value) {
        self.shared.state().store.rewind(kept);
        self.cut();
    }

    /// Whoever waits for a change looks again.
    pub fn stir(&self) {
        self.shared.stir();
    }

    /// Returns when something changed, or after that time.
    pub fn moved(&self, within: Duration) {
        let (mut moved, end) = (self.shared.moved.subscribe(), Instant::now() + within);
        moved.mark_unchanged();
        while !moved.has_changed().unwrap() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.state().asked)
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, secs: u64, mut holds: impl FnMut(&ApiServer) -> bool) {
        let end = Instant::now() + Duration::from_secs(secs);
        while !holds(self) {
            assert!(Instant::now() < end, "not within {secs} s: {what}\n{:#?}", self.shared.state().asked);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.ended.send_replace(true);
    }
}
