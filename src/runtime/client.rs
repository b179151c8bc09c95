//! One connection to containerd: a channel over its unix socket, and what every call carries (namespace, deadline, lease).
//!
//! Knows no pod. No hidden thread: the channel's tasks run on the one loop. A dead channel is dropped, never mended:
//! `events` makes a new one.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use containerd_client::services::v1 as api;
use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Response, Status};

use super::error::{Error, Result, Said, chain};
use super::silence::{Calls, Counted};

/// Calls that only read or write metadata.
const CALL: Duration = Duration::from_secs(10);
/// containerd's own limit for a message is 16 MiB; a list of many records with long specs may come near it.
const MESSAGE_BYTES: usize = 32 << 20;

/// A connection, cheap to clone.
#[derive(Clone)]
pub struct Client {
    channel: Counted,
    namespace: MetadataValue<Ascii>,
}

impl Client {
    /// Connects to the socket; fails at once if nobody listens. `calls` keeps count of what is unanswered.
    pub async fn connect(socket: &Path, namespace: &str, calls: Rc<Calls>) -> Result<Client> {
        let namespace =
            namespace.parse().map_err(|_| Error::Refused(format!("use containerd namespace `{namespace}`: it is not plain ASCII")))?;
        let channel = containerd_client::connect(socket)
            .await
            .map_err(|e| Error::Again(format!("connect to containerd at {}: {}", socket.display(), last(&e))))?;
        Ok(Client { channel: Counted { channel, calls }, namespace })
    }

    /// A request with namespace and the usual deadline.
    pub fn ask<T>(&self, message: T) -> Request<T> {
        self.ask_within(message, CALL)
    }

    /// A request with namespace and a deadline of its own.
    pub fn ask_within<T>(&self, message: T, deadline: Duration) -> Request<T> {
        let mut request = self.ask_for_ever(message);
        request.set_timeout(deadline);
        request
    }

    /// A request that may take as long as it takes: waits and streams.
    pub fn ask_for_ever<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        request
    }

    /// Adds a lease to a request: what the call makes is kept from garbage collection until the lease goes.
    pub fn leased<T>(&self, mut request: Request<T>, lease: &str) -> Request<T> {
        if let Ok(lease) = lease.parse::<MetadataValue<Ascii>>() {
            request.metadata_mut().insert("containerd-lease", lease);
        }
        request
    }

    /// Tasks.
    pub fn tasks(&self) -> api::tasks_client::TasksClient<Counted> {
        api::tasks_client::TasksClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Container records.
    pub fn containers(&self) -> api::containers_client::ContainersClient<Counted> {
        api::containers_client::ContainersClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES)
    }

    /// Sandbox records.
    pub fn sandboxes(&self) -> StoreClient<Counted> {
        StoreClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Snapshots.
    pub fn snapshots(&self) -> SnapshotsClient<Counted> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Images.
    pub fn images(&self) -> api::images_client::ImagesClient<Counted> {
        api::images_client::ImagesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Content.
    pub fn content(&self) -> api::content_client::ContentClient<Counted> {
        api::content_client::ContentClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Leases.
    pub fn leases(&self) -> api::leases_client::LeasesClient<Counted> {
        api::leases_client::LeasesClient::new(self.channel.clone())
    }

    /// Transfers.
    pub fn transfer(&self) -> api::transfer_client::TransferClient<Counted> {
        api::transfer_client::TransferClient::new(self.channel.clone())
    }

    /// Streams beside transfers.
    pub fn streaming(&self) -> api::streaming_client::StreamingClient<Counted> {
        api::streaming_client::StreamingClient::new(self.channel.clone())
    }

    /// Events.
    pub fn events(&self) -> api::events_client::EventsClient<Counted> {
        api::events_client::EventsClient::new(self.channel.clone())
    }

    /// What containerd says of its plugins.
    pub fn introspection(&self) -> api::introspection_client::IntrospectionClient<Counted> {
        api::introspection_client::IntrospectionClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES)
    }

    /// Version.
    pub fn version(&self) -> api::version_client::VersionClient<Counted> {
        api::version_client::VersionClient::new(self.channel.clone())
    }
}

/// The deepest cause: a transport error's own words say nothing.
fn last(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    if deepest.to_string().is_empty() { chain(error).to_string() } else { deepest.to_string() }
}

/// Names what was tried on an answer.
pub trait Tried<T> {
    /// The message of the answer, or what was tried, on what, and why it failed.
    fn tried(self, verb: &'static str, object: &str) -> Result<T>;
}

impl<T> Tried<T> for std::result::Result<Response<T>, Status> {
    fn tried(self, verb: &'static str, object: &str) -> Result<T> {
        self.map(Response::into_inner).map_err(|status| Error::Call { verb, object: object.to_owned(), source: Said::from(status) })
    }
}

/// Takes one answer as a state that was wanted anyway.
pub trait Unless<T> {
    /// `None` instead of an error with this code.
    fn unless(self, code: Code) -> Result<Option<T>>;
}

impl<T> Unless<T> for Result<T> {
    fn unless(self, code: Code) -> Result<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.code() == Some(code) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
