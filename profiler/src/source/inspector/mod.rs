//! A conversation with an inspector: requests with numbers, replies by these numbers, and events in
//! between. V8's inspector and WebKit's differ in what is said only. [`Inspected`] is a local
//! process that is spoken to.

mod process;

use std::{
    collections::VecDeque,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::time::timeout;

pub use process::Inspected;

use super::websocket::{MAX_MESSAGE, SocketError, SocketUrl, Websocket};
use crate::format::inspector::{Message, MessageError};

/// Why a process has no inspector that can be asked: another way of recording is needed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoInspector(pub String);

/// What goes wrong with an inspector.
#[derive(Debug, thiserror::Error)]
pub enum InspectorError {
    /// The connection.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// It sent something else than messages.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// It knows the request and does not carry it out, or does not know it.
    #[error("it refused {method}: {why}")]
    Refused {
        /// The request.
        method: String,
        /// Why, as it put it.
        why: String,
    },
    /// It did not reply.
    #[error("it did not answer {method} within {after:?}")]
    Silent {
        /// The request.
        method: String,
        /// How long was waited.
        after: Duration,
    },
    /// More events than are kept.
    #[error("it sent more than {} MB of events at once", MAX_MESSAGE >> 20)]
    TooMuch,
}

impl InspectorError {
    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Socket(SocketError::Closed))
    }
}

/// An event: its name, and the message itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub method: String,
    /// The whole message.
    pub text: String,
}

/// An open conversation.
#[derive(Debug)]
pub struct Inspector {
    socket: Websocket,
    asked: u64,
    /// Events that came while a reply was waited for.
    events: VecDeque<Event>,
    kept_bytes: usize,
}

impl Inspector {
    /// Connects, in the network of a container where one is given.
    ///
    /// # Errors
    /// What kept it.
    pub async fn open(url: &SocketUrl, network: Option<&File>) -> Result<Self, SocketError> {
        let socket = Websocket::open(url, network).await?;
        // Bun sends every reply to all who are connected.
        let asked = u64::from(RandomState::new().hash_one(SystemTime::now()) as u32 >> 2);
        Ok(Self { socket, asked, events: VecDeque::new(), kept_bytes: 0 })
    }

    /// Sends a request without waiting for its reply; its number.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub async fn send(&mut self, method: &str, params: Value) -> Result<u64, InspectorError> {
        self.asked += 1;
        let request = json!({ "id": self.asked, "method": method, "params": params });
        self.socket.send(request.to_string()).await?;
        Ok(self.asked)
    }

    /// Sends a request and waits for its reply, for at most `wait`; the whole message.
    ///
    /// # Errors
    /// What went wrong, or why it was refused.
    pub async fn ask(
        &mut self,
        method: &str,
        params: Value,
        wait: Duration,
    ) -> Result<String, InspectorError> {
        let id = self.send(method, params).await?;
        let silent = || InspectorError::Silent { method: method.to_owned(), after: wait };
        timeout(wait, self.reply(id, method)).await.map_err(|_| silent())?
    }

    async fn reply(&mut self, id: u64, asked: &str) -> Result<String, InspectorError> {
        loop {
            let text = self.socket.receive().await?;
            match Message::read(&text)? {
                Message::Reply(of) if of == id => return Ok(text),
                Message::Refused { id: of, why } if of == id => {
                    return Err(InspectorError::Refused { method: asked.to_owned(), why });
                }
                Message::Event(method) => self.keep(Event { method, text })?,
                // To a request whose reply nobody waits for.
                Message::Reply(_) | Message::Refused { .. } => {}
            }
        }
    }

    fn keep(&mut self, event: Event) -> Result<(), InspectorError> {
        self.kept_bytes += event.text.len();
        if self.kept_bytes > MAX_MESSAGE {
            return Err(InspectorError::TooMuch);
        }
        self.events.push_back(event);
        Ok(())
    }

    /// The next event, however long it takes. May be dropped and asked for again.
    ///
    /// # Errors
    /// When the connection has ended, or something else than messages came.
    pub async fn event(&mut self) -> Result<Event, InspectorError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.kept_bytes -= event.text.len();
                return Ok(event);
            }
            let text = self.socket.receive().await?;
            if let Message::Event(method) = Message::read(&text)? {
                return Ok(Event { method, text });
            }
        }
    }

    /// Events that came before the last reply.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.kept_bytes = 0;
        self.events.drain(..).collect()
    }

    /// Ends the conversation.
    pub async fn close(self) {
        self.socket.close().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        thread,
    };

    use tokio::runtime;
    use tokio_tungstenite::tungstenite::{
        self, Message as Frame, WebSocket,
        protocol::frame::{
            self,
            coding::{Data, OpCode},
        },
    };

    use super::*;

    /// Speaks with an inspector that does this with each connection.
    fn with<T>(
        inspector: impl Fn(WebSocket<TcpStream>) + Send + 'static,
        speak: impl AsyncFnOnce(Inspector) -> T,
    ) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = SocketUrl::at(listener.local_addr().unwrap(), "id");
        thread::spawn(move || {
            inspector(tungstenite::accept(listener.accept().unwrap().0).unwrap());
        });
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { speak(Inspector::open(&url, None).await.unwrap()).await })
    }

    fn answers(texts: &'static [&'static str]) -> impl Fn(WebSocket<TcpStream>) + Send + 'static {
        move |mut socket| {
            let asked = socket.read().unwrap();
            let asked: Value = serde_json::from_str(asked.to_text().unwrap()).unwrap();
            assert_eq!(asked["method"], "X.y");
            let id = asked["id"].as_i64().unwrap();
            for text in texts {
                socket.send(Frame::text(text.replace("ID", &id.to_string()))).unwrap();
            }
            // Until the other side goes.
            while socket.read().is_ok() {}
        }
    }

    const WAIT: Duration = Duration::from_secs(5);

    #[test]
    fn events_wait_while_a_reply_is_awaited() {
        let texts = &[
            r#"{"method":"A.b"}"#,
            r#"{"id":9,"result":{}}"#,
            r#"{"id":ID,"result":{"a":1}}"#,
            r#"{"method":"C.d"}"#,
        ];
        with(answers(texts), async |mut inspector| {
            let reply = inspector.ask("X.y", json!({}), WAIT).await.unwrap();
            assert!(reply.ends_with(r#","result":{"a":1}}"#), "{reply}");
            for text in [texts[0], texts[3]] {
                assert_eq!(inspector.event().await.unwrap().text, text);
            }
        });
    }

    #[test]
    fn refusals_and_silence_are_told() {
        let texts = &[r#"{"id":ID,"error":{"message":"no"}}"#];
        let refused = with(answers(texts), async |mut inspector| {
            inspector.ask("X.y", json!({}), WAIT).await.unwrap_err()
        });
        assert_eq!(refused.to_string(), "it refused X.y: no");
        let silent = with(answers(&[]), async |mut inspector| {
            inspector.ask("X.y", json!({}), Duration::from_millis(50)).await.unwrap_err()
        });
        assert!(matches!(silent, InspectorError::Silent { .. }), "{silent}");
        let wrong = with(answers(&["<html>"]), async |mut inspector| {
            inspector.ask("X.y", json!({}), WAIT).await.unwrap_err()
        });
        assert!(matches!(wrong, InspectorError::Message(_)), "{wrong}");
    }

    #[test]
    fn connections_that_end_are_told() {
        let closed = with(drop, async |mut inspector| inspector.event().await.unwrap_err());
        assert!(closed.is_closed(), "{closed}");
        let gone = |mut socket: WebSocket<TcpStream>| socket.close(None).unwrap();
        let closed = with(gone, async |mut inspector| inspector.event().await.unwrap_err());
        assert!(closed.is_closed(), "{closed}");
    }

    #[test]
    fn messages_are_bounded() {
        let endless = |mut socket: WebSocket<TcpStream>| {
            // Fragments of one message, which never ends.
            let fragment = vec![b' '; 1 << 20];
            let mut code = OpCode::Data(Data::Text);
            loop {
                let frame = frame::Frame::message(fragment.clone(), code, false);
                if socket.send(Frame::Frame(frame)).is_err() {
                    return;
                }
                code = OpCode::Data(Data::Continue);
            }
        };
        let error = with(endless, async |mut inspector| inspector.event().await.unwrap_err());
        assert!(error.to_string().contains("more than 256 MB"), "{error}");
    }

    #[test]
    fn what_is_no_websocket_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = SocketUrl::at(listener.local_addr().unwrap(), "id");
        thread::spawn(move || {
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(Inspector::open(&url, None)).unwrap_err();
        assert!(error.to_string().contains("it answered 404"), "{error}");
        let error = runtime.block_on(Inspector::open(&url, None)).unwrap_err();
        assert!(error.to_string().contains("cannot reach"), "{error}");
    }
}
