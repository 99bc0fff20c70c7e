//! What can go wrong between us and the API server, and what to call it.
//!
//! In: errors of the client and of the server. Out: a [`Failure`]: a reason to act on, and words for people. Never: an act.

use std::error::Error as _;

use kube::core::Status;

/// Why a request, or a watch, came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No connection, or none that could be trusted.
    Unreachable,
    /// A connection, on which nothing came in time.
    Silent,
    /// The kubeconfig or the service account's files cannot be used.
    Setup,
    /// 401: the server does not know who we are.
    Unauthorized,
    /// 403: we may not.
    Forbidden,
    /// 404: there is no such kind (yet).
    Absent,
    /// 410: the server has forgotten the changes since the version that we have.
    Gone,
    /// The server's state is older than ours: it lags, or was set back from a backup.
    Older,
    /// 400 or 422: the server does not know what was asked for.
    Unknown,
    /// 429: the server asks us to come back later.
    Busy,
    /// Any other error of the server.
    Server,
    /// What came was not what the protocol says.
    Garbled,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// To act on.
    pub reason: Reason,
    /// For people: part of a sentence.
    pub said: String,
}

/// How much of an answer is repeated to people: a proxy's error page can be long.
const SAID_CHARS: usize = 300;

// === impl Failure ===

impl Failure {
    pub(super) fn new(reason: Reason, said: impl Into<String>) -> Self {
        Self { reason, said: said.into().chars().take(SAID_CHARS).collect() }
    }

    /// An error of the client, or of the server by way of the client.
    pub(super) fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::new(Reason::Garbled, innermost(error)),
            kube::Error::Auth(_) | kube::Error::RustlsTls(_) | kube::Error::InferKubeconfig(_) => {
                Self::new(Reason::Setup, innermost(error))
            }
            _ => Self::new(Reason::Unreachable, innermost(error)),
        }
    }

    /// An error of the server.
    pub(super) fn of_status(status: &Status) -> Self {
        let reason = match status.code {
            400 | 422 => Reason::Unknown,
            401 => Reason::Unauthorized,
            403 => Reason::Forbidden,
            404 => Reason::Absent,
            410 => Reason::Gone,
            429 => Reason::Busy,
            _ if is_too_large(status) => Reason::Older,
            _ => Reason::Server,
        };
        let message = status.message.trim();
        let said = match (message.is_empty(), status.code) {
            (true, code) => format!("status {code}"),
            (false, 0) => message.to_owned(),
            (false, code) => format!("{message} (status {code})"),
        };
        Self::new(reason, said)
    }
}

/// Whether a version was asked for that the server has not reached (apiserver, storage/errors.go,
/// `NewTooLargeResourceVersionError`: a 504 with this cause).
fn is_too_large(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.message.contains("Too large resource version")
        || causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
}

/// The error at the bottom: those above it only say that there is one below.
fn innermost(error: &kube::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !text.is_empty() {
            said = text;
        }
        cause = error.source();
    }
    said
}
