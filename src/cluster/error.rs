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
    #[error("{what}: no answer within {} s{}", within.as_secs(), if *alone { ", though others are answered" } else { "" })]
    Slow {
        /// The request.
        what: String,
        /// The time it had.
        within: Duration,
        /// What was asked after it was answered: it is this one request, a webhook that hangs.
        alone: bool,
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

    /// What was asked of one uid met another object of that name; the watch tells of it.
    pub fn is_of_another(&self) -> bool {
        match self {
            Error::Refused { code: 409, message, .. } => message.contains("UID in "),
            Error::Refused { code: 422, message, .. } => message.contains("metadata.uid: Invalid value"),
            _ => false,
        }
    }

    /// It is the server as a whole that is in trouble, or the way to it, not the one request.
    pub fn is_general(&self) -> bool {
        match self {
            Error::Refused { code: 500, message, .. } => !message.contains("webhook"),
            // The admission plugin EventRateLimit, which limits nothing but events.
            Error::Refused { code: 429, message, .. } if message.contains("limit reached on type") => false,
            Error::Refused { code, .. } => matches!(code, 401 | 429 | 501..),
            Error::Slow { alone, .. } => !alone,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_request_is_refused_for_says_nothing_of_the_server() {
        let refused = |code, message: &str| Error::Refused { code, reason: String::new(), message: message.into(), after: Duration::ZERO };
        let slow = |alone| Error::Slow { what: String::new(), within: Duration::ZERO, alone };
        for (is, e) in [
            (true, refused(500, "etcdserver: leader changed")),
            (false, refused(500, "Internal error occurred: failed calling webhook \"x\": context deadline exceeded")),
            (true, refused(429, "the API server answers 429")),
            (false, refused(429, "Too many requests: limit reached on type Namespace for key default")),
            (true, refused(504, "Timeout: request did not complete within the allotted timeout")),
            (false, refused(403, "exceeded quota")),
            (true, slow(false)),
            (false, slow(true)),
        ] {
            assert_eq!(e.is_general(), is, "{e}");
        }
    }

    #[test]
    fn the_recorded_answers_to_a_uid_that_is_gone_are_told_from_others() {
        let refused = |code, message: &str| Error::Refused { code, reason: String::new(), message: message.into(), after: Duration::ZERO };
        let precondition = "Operation cannot be fulfilled on Pod \"a\": the UID in the precondition (b) does not match the UID in record (c). \
                            The object might have been deleted and then recreated";
        for (is, e) in [
            (true, refused(422, "Pod \"a\" is invalid: metadata.uid: Invalid value: \"b\": field is immutable")),
            (false, refused(422, "Pod \"a\" is invalid: status.containerStatuses[0].state: Forbidden: may not be transitioned")),
            (true, refused(409, precondition)),
            (false, refused(409, "pods \"a\" already exists")),
            (false, refused(404, "pods \"a\" not found")),
        ] {
            assert_eq!(e.is_of_another(), is, "{e}");
        }
    }
}
