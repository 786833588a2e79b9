//! What inspectors send, V8's and WebKit's alike: JSON, each message a reply with the request's id
//! or an event; and the list of targets that Node's answers over HTTP.
//!
//! A message is read twice: its head to know what it is, then the part that is of interest, so that
//! a profile of many megabytes is never held as a tree of JSON values.

use std::borrow::Cow;

use serde::{Deserialize, de::DeserializeOwned};

/// Why a message cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or of another shape.
    #[error("it sent what is no message of an inspector: {0}")]
    Malformed(#[from] serde_json::Error),
    /// JSON without an id and without a method.
    #[error("it sent a message that is neither a reply nor an event")]
    Neither,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request was carried out.
    Reply(u64),
    /// A request was refused.
    Refused {
        /// Its id.
        id: u64,
        /// Why, as the inspector put it.
        why: String,
    },
    /// Something happened.
    Event(String),
}

#[derive(Deserialize)]
struct Head<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error: Option<Fault<'a>>,
}

#[derive(Deserialize)]
struct Fault<'a> {
    #[serde(borrow, default)]
    message: Cow<'a, str>,
}

impl Message {
    /// Reads the head of a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, MessageError> {
        match serde_json::from_str(text)? {
            Head { id: Some(id), error: Some(fault), .. } => {
                Ok(Self::Refused { id, why: fault.message.chars().take(300).collect() })
            }
            Head { id: Some(id), .. } => Ok(Self::Reply(id)),
            Head { method: Some(method), .. } => Ok(Self::Event(method.into_owned())),
            Head { .. } => Err(MessageError::Neither),
        }
    }
}

/// The result of a reply.
///
/// # Errors
/// When it has another shape.
pub fn result<T: DeserializeOwned>(reply: &str) -> Result<T, MessageError> {
    #[derive(Deserialize)]
    struct Reply<T> {
        result: T,
    }
    Ok(serde_json::from_str::<Reply<T>>(reply)?.result)
}

/// The parameters of an event.
///
/// # Errors
/// When they have another shape.
pub fn parameters<T: DeserializeOwned>(event: &str) -> Result<T, MessageError> {
    #[derive(Deserialize)]
    struct Event<T> {
        params: T,
    }
    Ok(serde_json::from_str::<Event<T>>(event)?.params)
}

/// What an expression came to: `Runtime.evaluate`.
#[derive(Debug, Deserialize)]
pub struct Evaluated {
    /// The value.
    pub result: RemoteObject,
}

/// A value of the target.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteObject {
    /// The value itself, of plain ones.
    pub value: Option<serde_json::Value>,
    /// By what it is named in further requests, of others.
    pub object_id: Option<String>,
}

/// A thread of Node that has just been found: `NodeWorker.attachedToWorker`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachedWorker {
    /// By what it is named in further requests.
    pub session_id: String,
    /// What is known of it.
    pub worker_info: WorkerInfo,
}

/// What is known of a thread of Node.
#[derive(Debug, Deserialize)]
pub struct WorkerInfo {
    /// Its name: `[worker 1] name`.
    #[serde(default)]
    pub title: String,
}

/// A message of a thread of Node (`NodeWorker.receivedMessageFromWorker`), or its end
/// (`NodeWorker.detachedFromWorker`).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FromWorker {
    /// Which thread.
    pub session_id: String,
    /// The message; empty: there is none.
    #[serde(default)]
    pub message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    #[serde(default)]
    web_socket_debugger_url: String,
}

/// The path of the first target that an answer to `GET /json/list` names; none: this is no
/// inspector's answer.
#[must_use]
pub fn target_path(answer: &[u8]) -> Option<String> {
    let targets: Vec<Target> = serde_json::from_slice(body(answer)?).ok()?;
    let url = targets.into_iter().map(|target| target.web_socket_debugger_url);
    url.filter_map(|url| {
        let (_, path) = url.strip_prefix("ws://")?.split_once('/')?;
        // It becomes part of a request's first line.
        let plain = |byte: u8| byte.is_ascii_graphic();
        (!path.is_empty() && path.len() < 1000 && path.bytes().all(plain)).then(|| path.to_owned())
    })
    .next()
}

/// Whether an answer over HTTP has all come: its length is said and reached.
#[must_use]
pub fn is_whole(answer: &[u8]) -> bool {
    let Some(body) = body(answer) else { return false };
    let head = String::from_utf8_lossy(&answer[..answer.len() - body.len()]).to_ascii_lowercase();
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// What follows the head of an answer over HTTP.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let at = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    answer.starts_with(b"HTTP/1.").then(|| &answer[at + 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        for (text, message) in [
            (r#"{"id":3,"result":{}}"#, Message::Reply(3)),
            (r#"{"result":{"a":[1,{"b":"\n"}]},"id":3}"#, Message::Reply(3)),
            (
                r#"{"error":{"code":-32601,"message":"'X.y' wasn't found"},"id":4}"#,
                Message::Refused { id: 4, why: "'X.y' wasn't found".to_owned() },
            ),
            (r#"{"method":"A.b","params":{}}"#, Message::Event("A.b".to_owned())),
        ] {
            assert_eq!(Message::read(text).unwrap(), message, "{text}");
        }
        assert!(matches!(Message::read("{}"), Err(MessageError::Neither)));
        for text in ["", "[]", "3", r#"{"id":-1}"#, r#"{"id":1"#, r#"{"id":1,"error":7}"#] {
            assert!(matches!(Message::read(text), Err(MessageError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn parts_are_read_by_their_shape() {
        let text =
            r#"{"id":1,"result":{"result":{"type":"number","value":12,"description":"12"}}}"#;
        let evaluated: Evaluated = result(text).unwrap();
        assert_eq!(evaluated.result.value, Some(12.into()));
        let text = r#"{"method":"NodeWorker.attachedToWorker","params":{"sessionId":"1",
            "workerInfo":{"workerId":"1","title":"[worker 1] a"},"waitingForDebugger":false}}"#;
        let attached: AttachedWorker = parameters(text).unwrap();
        let AttachedWorker { session_id, worker_info: WorkerInfo { title } } = attached;
        assert_eq!((session_id.as_str(), title.as_str()), ("1", "[worker 1] a"));
        assert!(parameters::<AttachedWorker>(r#"{"params":{"sessionId":1}}"#).is_err());
        assert!(result::<Evaluated>("{}").is_err());
    }

    #[test]
    fn lists_of_targets_are_read_from_whole_answers() {
        let list = r#"[{"title":"x"},{"webSocketDebuggerUrl":"ws://127.0.0.1:9229/7b-1"}]"#;
        let length = list.len();
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{list}");
        assert!(is_whole(answer.as_bytes()) && !is_whole(&answer.as_bytes()[..answer.len() - 1]));
        assert_eq!(target_path(answer.as_bytes()).as_deref(), Some("7b-1"));
        for other in [
            "",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n[]",
            "HTTP/1.1 200 OK\r\n\r\n[{\"webSocketDebuggerUrl\":\"ws://h/a b\"}]",
            "HTTP/1.1 200 OK\r\n\r\n[{\"webSocketDebuggerUrl\":\"http://h/a\"}]",
            "SSH-2.0-OpenSSH\r\n\r\n[]",
        ] {
            assert_eq!(target_path(other.as_bytes()), None, "{other}");
        }
    }
}
