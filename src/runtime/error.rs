//! What can fail in this room, and how it becomes data at the room's edge.
//!
//! `plan` never sees these: `Error::class` says what follows from one, `Error::into_failure` makes the rest of it.

use std::error::Error as _;
use std::rc::Rc;

use tonic::{Code, Status};

use crate::plan::action::{Class, Failure};

/// What was tried in this room and failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no link to containerd now.
    #[error("reach containerd: there is no connection now; it is tried again by itself")]
    Unlinked,
    /// A call to containerd failed.
    #[error("{verb} `{object}`")]
    Call {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
        /// What containerd said.
        #[source]
        source: Said,
    },
    /// A file or directory of ours could not be read or written.
    #[error("{verb} {path}")]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something is wrong with what was asked for; a retry does not change it.
    #[error("{0}")]
    Refused(String),
    /// What it is for belongs to another plinth.
    #[error("{0}")]
    Taken(String),
    /// Something did not happen yet, or not this time.
    #[error("{0}")]
    Again(String),
    /// The object it was for is not there (any more).
    #[error("{0}")]
    Gone(String),
}

/// A status of containerd's, shown as its own words only.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Said {
    /// Its code.
    pub code: Code,
    /// Its words.
    pub text: String,
    /// The connection broke, so nothing is known of what became of the call.
    pub broken: bool,
}

impl From<Status> for Said {
    fn from(status: Status) -> Said {
        let local = status.source().is_some();
        let broken = local && status.code() != Code::DeadlineExceeded && status.code() != Code::Cancelled;
        let mut text = status.message().to_owned();
        let mut cause = status.source();
        while let Some(c) = cause {
            let more = c.to_string();
            if !text.contains(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = c.source();
        }
        if text.is_empty() {
            text = format!("{:?}", status.code());
        }
        Said { code: status.code(), text, broken: broken || status.code() == Code::Unavailable }
    }
}

/// This room's results.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The code containerd answered with, if it answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Call { source, .. } => Some(source.code),
            _ => None,
        }
    }

    /// What follows from it.
    pub fn class(&self) -> Class {
        match self {
            Error::Unlinked => Class::Unreachable,
            Error::Call { source, .. } if source.broken => Class::Unreachable,
            Error::Call { source, .. } => match source.code {
                Code::NotFound => Class::Gone,
                Code::InvalidArgument | Code::Unimplemented => Class::Refused,
                _ => Class::Retry,
            },
            Error::File { .. } | Error::Again(_) => Class::Retry,
            Error::Refused(_) | Error::Taken(_) => Class::Refused,
            Error::Gone(_) => Class::Gone,
        }
    }

    /// The error as data, under one of the kubelet's reasons.
    pub fn into_failure(self, reason: &str) -> Failure {
        Failure { class: self.class(), reason: reason.into(), message: chain(&self) }
    }
}

/// The whole chain in one line: `what: why: why`.
pub fn chain(error: &dyn std::error::Error) -> Rc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text.into()
}
