//! What goes wrong with a service, in one sentence each.

use std::{error::Error, time::Duration};

use reqwest::StatusCode;

use super::Address;

/// Why a service gave no profile.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection.
    #[error("cannot reach {address}: {cause}{}", hint(cause))]
    Unreachable {
        /// What was asked.
        address: Address,
        /// What the system or the other side's certificate said.
        cause: String,
    },
    /// Nothing came in time.
    #[error("{address} did not answer within {after:?}")]
    TimeOut {
        /// What was asked.
        address: Address,
        /// How long was waited.
        after: Duration,
    },
    /// The answer began and did not end well.
    #[error("{address} answered {status}, but the answer broke off after {bytes} bytes: {cause}")]
    Cut {
        /// What was asked.
        address: Address,
        /// The status.
        status: StatusCode,
        /// How much had come.
        bytes: usize,
        /// What the connection said.
        cause: String,
    },
    /// The answer is larger than any profile.
    #[error("{address} answered {status} with more than {limit} MB, which is no profile")]
    TooLarge {
        /// What was asked.
        address: Address,
        /// The status.
        status: StatusCode,
        /// The limit, in megabytes.
        limit: usize,
    },
    /// A redirect that is not followed.
    #[error(
        "{address} answered {status} and leads elsewhere: {to}; if that is right, give it as --url"
    )]
    Elsewhere {
        /// What was asked.
        address: Address,
        /// The status.
        status: StatusCode,
        /// Where to, in words.
        to: String,
    },
    /// A status that is no success.
    #[error("{address} answered {status}{}{}", said(reason), advice(*status, *sent, retry_after))]
    Refused {
        /// What was asked.
        address: Address,
        /// The status.
        status: StatusCode,
        /// What the service said about it.
        reason: String,
        /// Whether a credential was sent.
        sent: bool,
        /// When to come again, as the service put it.
        retry_after: Option<String>,
    },
    /// A success that holds something else than a profile.
    #[error("{address} answered {status} with {content}, which cannot be drawn: {cause}")]
    Content {
        /// What was asked.
        address: Address,
        /// The status.
        status: StatusCode,
        /// What it holds, in words.
        content: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl HttpError {
    /// Whether the service was reached, let us in, and yet gave no profile: it lacks the endpoint,
    /// or fails in it.
    #[must_use]
    pub fn lacks_profile(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error()
                    || matches!(*status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
            }
            Self::TimeOut { .. } | Self::Cut { .. } | Self::Content { .. } => true,
            Self::Unreachable { .. } | Self::TooLarge { .. } | Self::Elsewhere { .. } => false,
        }
    }
}

fn hint(cause: &str) -> &'static str {
    if cause.contains("certificate") {
        "; --ca-cert names a file with one to trust"
    } else if cause.contains("refused") {
        "; is the service running, and is --url right?"
    } else {
        "; is --url right?"
    }
}

fn said(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}

fn advice(status: StatusCode, sent: bool, retry_after: &Option<String>) -> String {
    let text = match status {
        StatusCode::UNAUTHORIZED if sent => "; the credential was not accepted",
        StatusCode::UNAUTHORIZED => "; give --token-file, --token or --api-key",
        StatusCode::FORBIDDEN if sent => "; the credential does not allow this",
        StatusCode::FORBIDDEN => "; it may want --token-file, --token or --api-key",
        StatusCode::NOT_FOUND => "; it has no such endpoint: is --url right?",
        _ => match retry_after {
            Some(when) => return format!("; it may be asked again after {when}"),
            None => "",
        },
    };
    text.to_owned()
}

/// The innermost cause of an error: what the system said, without the layers above.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
