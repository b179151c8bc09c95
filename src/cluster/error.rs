//! What can go wrong with the API server. All of it is survived; none of it reaches a pod.

use std::time::Duration;

use serde::Deserialize;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error(transparent)]
    Config(#[from] crate::settings::kubeconfig::KubeconfigError),
    /// What it says cannot be used.
    #[error("use kubeconfig: {0}")]
    Unusable(String),
    /// No connection.
    #[error("connect to {server}: {why}")]
    Connect {
        /// The server.
        server: String,
        /// Why not.
        why: String,
    },
    /// There is none now.
    #[error("the API server is away")]
    Away,
    /// The connection ended in the middle, or what came over it is no HTTP.
    #[error("{what}: {why}")]
    Broken {
        /// The request.
        what: String,
        /// What happened.
        why: String,
    },
    /// No answer in time.
    #[error("{what}: no answer within {} s", within.as_secs())]
    Slow {
        /// The request.
        what: String,
        /// The time it had.
        within: Duration,
    },
    /// The server said no.
    #[error("{message}")]
    Refused {
        /// Its code.
        code: u16,
        /// Its reason: `NotFound`, `AlreadyExists`, `Conflict`, …
        reason: String,
        /// Its words.
        message: String,
        /// It asks to be left alone for so long.
        after: Duration,
    },
    /// It said something that cannot be read.
    #[error("{what}: read the answer: {why}")]
    Unread {
        /// The request.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Result of a request.
pub type Result<T> = std::result::Result<T, Error>;

/// `v1.Status`, as far as it is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Why, in words.
    pub message: String,
    /// Why, in one word.
    pub reason: String,
    /// The code, in a watch.
    pub code: u16,
}

impl Error {
    /// The server's code, where it answered.
    pub fn code(&self) -> Option<u16> {
        if let Error::Refused { code, .. } = self { Some(*code) } else { None }
    }

    /// The Node was made just now, and what admits its pods has not seen it yet (NodeRestriction asks a cache).
    pub fn is_early(&self) -> bool {
        match self {
            Error::Refused { code: 404, message, .. } => message.starts_with("node ") && message.ends_with(" not found"),
            Error::Refused { code: 403, message, .. } => message.contains(" UID mismatch: "),
            _ => false,
        }
    }

    /// It is the server as a whole that is in trouble, or the way to it, not the one request.
    pub fn is_general(&self) -> bool {
        match self {
            Error::Refused { code: 500, message, .. } => !message.contains("webhook"),
            Error::Refused { code, .. } => matches!(code, 401 | 429 | 501..),
            _ => true,
        }
    }
}
