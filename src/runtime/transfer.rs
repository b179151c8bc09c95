//! containerd's transfer service: pull an image from a registry, or import one from a stream of tar pieces.
//!
//! Knows neither pods nor archives. Every stream has a random id and every call our lease: a stream whose client went away
//! is only cleaned up by the garbage collection of its lease.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use containerd_client::services::v1::{
    CreateRequest as LeaseRequest, DeleteRequest as LeaseDelete, StreamInit, TransferOptions, TransferRequest,
};
use containerd_client::to_any;
use containerd_client::types::Platform;
use containerd_client::types::transfer::{
    Data, ImageImportStream, ImageStore, OciRegistry, Progress, RegistryResolver, UnpackConfiguration, WindowUpdate,
};
use prost::Message;
use prost_types::Any;
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use super::client::{Client, Tried};
use super::error::{Error, Result};
use crate::clock;
use crate::hex::hex;

/// A lease outlives the longest transfer; if plinth dies meanwhile, containerd drops it after that.
const LEASE_S: i64 = 24 * 3600;
/// The largest piece containerd's receiver reads at once.
pub const PIECE_BYTES: usize = 32 << 10;
/// Unpacking shows no progress of its own, and a large layer takes its time on a slow disk: so many times the stall limit.
const UNPACK_PATIENCE: u32 = 10;

/// An import shows no progress but that it takes more: one that took nothing for so long, or had all of it, is given up.
const IMPORT_STALL: Duration = Duration::from_secs(30 * 60);

/// What is pulled or imported, and how.
pub struct Wish<'a> {
    /// The reference; the image's name after a pull.
    pub reference: &'a str,
    /// Directory of `<host>/hosts.toml`, where there is one and containerd can use it.
    pub hosts_dir: Option<String>,
    /// Unpacked for this snapshotter.
    pub snapshotter: &'a str,
    /// Given up after so long without progress.
    pub stall: Duration,
    /// Labels for the image.
    pub labels: HashMap<String, String>,
}

/// The lease of one transfer, by id.
pub struct Lease(pub String);

/// A new lease's id.
pub fn lease_id() -> Result<String> {
    Ok(format!("plinth-{}", random()?))
}

impl Lease {
    /// Takes a lease under this id.
    pub async fn take(client: &Client, id: String) -> Result<Lease> {
        let mut expire = String::new();
        let _ = write!(expire, "{}", clock::Wall(clock::now().wall.0.saturating_add(LEASE_S * 1_000_000_000)));
        let labels = HashMap::from([
            ("containerd.io/gc.expire".to_owned(), expire),
            (super::labels::SCHEME.0.to_owned(), super::labels::SCHEME.1.to_owned()),
        ]);
        client.leases().create(client.ask(LeaseRequest { id: id.clone(), labels })).await.tried("take lease", &id)?;
        Ok(Lease(id))
    }

    /// Gives it back; if that fails it expires.
    pub async fn give_back(self, client: &Client) {
        if let Err(status) = client.leases().delete(client.ask(LeaseDelete { id: self.0.clone(), sync: false })).await {
            log::debug!("give back lease {}: {status}", self.0);
        }
    }
}

/// Pulls and unpacks.
pub async fn pull(client: &Client, lease: &Lease, wish: &Wish<'_>) -> Result<()> {
    let resolver = RegistryResolver { host_dir: wish.hosts_dir.clone().unwrap_or_default(), ..RegistryResolver::default() };
    let source = to_any(&OciRegistry { reference: wish.reference.to_owned(), resolver: Some(resolver) });
    let (progress, mut events) = open(client, lease).await?;
    let store = store(wish, wish.reference);
    let transfer = transfer(client, lease, wish.reference, source, store, progress.id.clone());
    tokio::pin!(transfer);
    let mut seen = Seen::default();
    let mut last = Instant::now();
    loop {
        let patience = if seen.unpacking() { wish.stall * UNPACK_PATIENCE } else { wish.stall };
        tokio::select! {
            done = &mut transfer => return done,
            event = events.message() => match event {
                Ok(Some(any)) => if seen.note(&any) { last = Instant::now() },
                // Without progress messages only the transfer itself can tell.
                Ok(None) | Err(_) => {
                    let what = format!("pull `{}`: containerd tells no more of it and is not done", wish.reference);
                    return done_within(wish.stall * UNPACK_PATIENCE, what, transfer).await?;
                }
            },
            () = sleep_until(last + patience) => {
                return Err(Error::Again(format!("pull `{}`: no progress for {} s ({}); given up", wish.reference, patience.as_secs(), seen.last)));
            }
        }
    }
}

/// Imports what `feed` sends, and unpacks it; names nothing.
pub async fn import<F: Future<Output = Result<Pipe>>>(
    client: &Client,
    lease: &Lease,
    wish: &Wish<'_>,
    feed: impl FnOnce(Pipe) -> F,
) -> Result<()> {
    let (outgoing, incoming) = open(client, lease).await?;
    let source = to_any(&ImageImportStream { stream: outgoing.id.clone(), media_type: String::new(), force_compress: false });
    let transfer = transfer(client, lease, wish.reference, source, store(wish, ""), String::new());
    let feed = feed(Pipe { out: outgoing.out, incoming, window: 0 });
    tokio::pin!(transfer, feed);
    let sent = tokio::select! {
        done = &mut transfer => return done,
        pipe = &mut feed => pipe?,
    };
    // Closing our direction says that this was all; the other must stay open until containerd is done.
    let Pipe { out, incoming, .. } = sent;
    drop(out);
    let what = format!("import `{}`: containerd has all of it and is not done", wish.reference);
    let done = done_within(IMPORT_STALL, what, transfer).await;
    drop(incoming);
    done?
}

/// What is not done by then is given up.
async fn done_within<T>(limit: Duration, what: impl std::fmt::Display, doing: impl Future<Output = T>) -> Result<T> {
    timeout(limit, doing).await.map_err(|_| Error::Again(format!("{what} after {} s; given up", limit.as_secs())))
}

/// The way into an import, at the pace containerd sets.
pub struct Pipe {
    out: Sender<Any>,
    incoming: Streaming<Any>,
    window: usize,
}

impl Pipe {
    /// How many bytes may be sent now, at least one, at most a piece; waits until some may.
    pub async fn room(&mut self) -> Result<usize> {
        done_within(IMPORT_STALL, "import: containerd takes no more of the archive", self.let_in()).await?
    }

    async fn let_in(&mut self) -> Result<usize> {
        while self.window == 0 {
            let update = self.incoming.message().await.map(|m| m.map(|any| WindowUpdate::decode(any.value.as_slice())));
            match update {
                Ok(Some(Ok(update))) => self.window += usize::try_from(update.update).unwrap_or(0),
                // The transfer itself knows why nobody reads any more, and says so when it ends.
                Ok(_) | Err(_) => std::future::pending().await,
            }
        }
        Ok(self.window.min(PIECE_BYTES))
    }

    /// Sends one piece, no longer than `room` said.
    pub async fn send(&mut self, piece: Vec<u8>) {
        self.window = self.window.saturating_sub(piece.len());
        // A closed stream is the transfer's news to tell; one that is stuck, the next `room` tells.
        let _ = timeout(IMPORT_STALL, self.out.send(to_any(&Data { data: piece }))).await;
    }
}

struct Open {
    id: String,
    out: Sender<Any>,
}

/// Opens a stream under a random id and waits until containerd knows it: only then may a transfer name it.
async fn open(client: &Client, lease: &Lease) -> Result<(Open, Streaming<Any>)> {
    let id = format!("plinth-{}", random()?);
    let (out, queue) = channel::<Any>(2);
    let gone = || Error::Again("open a stream to containerd: it closed it again".into());
    out.send(to_any(&StreamInit { id: id.clone() })).await.map_err(|_| gone())?;
    let messages = futures_util::stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|any| (any, queue)) });
    let request = client.leased(client.ask_for_ever(messages), &lease.0);
    let mut stream = client.streaming().stream(request).await.tried("open stream", &id)?;
    let ack = stream.message().await.map(tonic::Response::new).tried("open stream", &id)?;
    ack.map(|_| (Open { id, out }, stream)).ok_or_else(gone)
}

async fn transfer(client: &Client, lease: &Lease, name: &str, source: Any, store: Any, progress_stream: String) -> Result<()> {
    let request = TransferRequest { source: Some(source), destination: Some(store), options: Some(TransferOptions { progress_stream }) };
    client.transfer().transfer(client.leased(client.ask_for_ever(request), &lease.0)).await.tried("get image", name)
}

fn store(wish: &Wish<'_>, name: &str) -> Any {
    let platform = Platform { os: "linux".into(), architecture: architecture().into(), ..Platform::default() };
    let unpack = UnpackConfiguration { platform: Some(platform.clone()), snapshotter: wish.snapshotter.to_owned() };
    to_any(&ImageStore {
        name: name.to_owned(),
        labels: wish.labels.clone(),
        platforms: vec![platform],
        unpacks: vec![unpack],
        ..ImageStore::default()
    })
}

/// This machine as image indexes spell it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What the progress messages said so far.
#[derive(Default)]
struct Seen {
    of: HashMap<String, (String, i64, i64)>,
    last: String,
}

impl Seen {
    /// True if this is news.
    fn note(&mut self, any: &Any) -> bool {
        let Ok(p) = Progress::decode(any.value.as_slice()) else { return false };
        let now = (p.event.clone(), p.progress, p.total);
        if self.of.get(&p.name) == Some(&now) {
            return false;
        }
        self.last = format!("last heard: {} {}", p.event, p.name).trim_end().to_owned();
        self.of.insert(p.name, now);
        true
    }

    /// Something was fetched and nothing is missing.
    fn unpacking(&self) -> bool {
        let mut blobs = self.of.values().filter(|(_, _, total)| *total > 0).peekable();
        blobs.peek().is_some() && blobs.all(|(event, done, total)| done >= total || event != "downloading" && event != "waiting")
    }
}

fn random() -> Result<String> {
    let mut bytes = [0u8; 16];
    let fail = |source| Error::File { verb: "read random bytes from", path: "/dev/urandom".into(), source };
    let mut file = std::fs::File::open("/dev/urandom").map_err(fail)?;
    std::io::Read::read_exact(&mut file, &mut bytes).map_err(fail)?;
    Ok(hex(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_never_ends_is_given_up_and_says_what_it_was() {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        rt.block_on(async {
            let said = done_within(Duration::from_millis(1), "import `x`: it is not done", std::future::pending::<()>()).await;
            assert_eq!(said.unwrap_err().to_string(), "import `x`: it is not done after 0 s; given up");
            assert_eq!(done_within(Duration::from_secs(60), "", async { 7 }).await.unwrap(), 7);
        });
    }
}
