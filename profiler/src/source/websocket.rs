//! Websockets to inspectors, on this host, in a container's network, or elsewhere. Every step has
//! a bound: connecting, asking, and the size of what comes.

use std::{
    fmt,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream, ToSocketAddrs as _},
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::Url;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Error, Message, error::CapacityError, protocol::WebSocketConfig},
};

/// Longer messages are refused, in bytes.
pub const MAX_MESSAGE: usize = 256 << 20;
/// How long a connection, and its becoming a websocket, may take.
const MAX_CONNECT: Duration = Duration::from_secs(10);
/// How long the other side may take to read what is sent.
const MAX_SEND: Duration = Duration::from_secs(10);

/// Where a websocket is. Shown without its path, which is what an inspector asks for in place of a
/// password.
#[derive(Clone, PartialEq, Eq)]
pub struct SocketUrl {
    host: String,
    port: u16,
    path: String,
}

/// Why text is no [`SocketUrl`]. The text itself may hold secrets, so it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketUrlError {
    /// Something else.
    #[error("this is not a ws URL, such as ws://localhost:6499/path")]
    NotWs,
    /// Over TLS, which no inspector speaks.
    #[error("inspectors speak ws, not wss; to reach one on another host forward its port by ssh")]
    Tls,
    /// A user or a password in it.
    #[error("it holds a user or a password, which no inspector asks for")]
    HoldsUser,
}

impl SocketUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, SocketUrlError> {
        let url = Url::parse(text.trim()).map_err(|_| SocketUrlError::NotWs)?;
        match url.scheme() {
            "ws" => {}
            "wss" => return Err(SocketUrlError::Tls),
            _ => return Err(SocketUrlError::NotWs),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SocketUrlError::HoldsUser);
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(SocketUrlError::NotWs)?;
        let port = url.port_or_known_default().ok_or(SocketUrlError::NotWs)?;
        // A query says how the runtime is to begin, and is not sent.
        Ok(Self { host: host.to_owned(), port, path: url.path().to_owned() })
    }

    /// The socket of a listener, at a path.
    #[must_use]
    pub fn at(listener: SocketAddr, path: &str) -> Self {
        let address = reachable(listener);
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: address.port(), path: format!("/{}", path.trim_start_matches('/')) }
    }

    /// Host and port, for captions.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for SocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}", self.authority())
    }
}

impl fmt::Debug for SocketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SocketUrl({self})")
    }
}

/// The address by which a listener is reached: one that listens on every address, on this host's.
#[must_use]
pub fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

/// What goes wrong with a websocket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No connection.
    #[error("cannot reach {place}: {cause}")]
    Unreachable {
        /// Where.
        place: String,
        /// What the system said.
        cause: String,
    },
    /// Something else listens there.
    #[error("{place} does not speak the websocket protocol: {cause}")]
    NoWebsocket {
        /// Where.
        place: String,
        /// What was wrong.
        cause: String,
    },
    /// It ended.
    #[error("the connection was closed")]
    Closed,
    /// A message that is too long.
    #[error("it sent a message of more than {} MB", MAX_MESSAGE >> 20)]
    TooLarge,
    /// Nothing came or went in time.
    #[error("it did not answer within {0:?}")]
    TimeOut(Duration),
}

/// An open websocket.
#[derive(Debug)]
pub struct Websocket(WebSocketStream<TcpStream>);

impl Websocket {
    /// Connects, in the network of a container where one is given.
    ///
    /// # Errors
    /// What kept it.
    pub async fn open(url: &SocketUrl, network: Option<&File>) -> Result<Self, SocketError> {
        let place = url.to_string();
        let host = url.host.trim_start_matches('[').trim_end_matches(']');
        let stream = connect((host, url.port), network).and_then(|stream| {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            TcpStream::from_std(stream)
        });
        let stream = stream.map_err(|error| SocketError::Unreachable {
            place: place.clone(),
            cause: error.to_string(),
        })?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        // No Origin: inspectors turn those away that come from a web page.
        let request = format!("ws://{}{}", url.authority(), url.path);
        let opened = timeout(MAX_CONNECT, client_async_with_config(request, stream, Some(config)));
        match opened.await {
            Ok(Ok((socket, _))) => Ok(Self(socket)),
            Ok(Err(Error::Http(response))) => {
                let cause = format!("it answered {}", response.status());
                Err(SocketError::NoWebsocket { place, cause })
            }
            Ok(Err(error)) => Err(SocketError::NoWebsocket { place, cause: error.to_string() }),
            Err(_) => Err(SocketError::TimeOut(MAX_CONNECT)),
        }
    }

    /// Sends a text.
    ///
    /// # Errors
    /// What kept it.
    pub async fn send(&mut self, text: String) -> Result<(), SocketError> {
        match timeout(MAX_SEND, self.0.send(Message::text(text))).await {
            Ok(sent) => sent.map_err(error),
            Err(_) => Err(SocketError::TimeOut(MAX_SEND)),
        }
    }

    /// The next text, however long it takes. May be dropped and asked for again: no part of a
    /// message is lost.
    ///
    /// # Errors
    /// [`SocketError::Closed`] and [`SocketError::TooLarge`].
    pub async fn receive(&mut self) -> Result<String, SocketError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Close(_))) | None => return Err(SocketError::Closed),
                // Pings are answered below; binary messages are of no inspector's protocol.
                Some(Ok(_)) => {}
                Some(Err(failed)) => return Err(error(failed)),
            }
        }
    }

    /// Says good-bye; whether that is heard is of no interest.
    pub async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.0.close(None)).await;
    }
}

fn error(error: Error) -> SocketError {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => SocketError::TooLarge,
        // A connection that breaks is one that has ended.
        _ => SocketError::Closed,
    }
}

/// Opens a connection, in the network of a container where one is given. It blocks.
///
/// # Errors
/// What the system said.
pub fn connect(address: (&str, u16), network: Option<&File>) -> io::Result<StdStream> {
    match network {
        None => connect_here(address),
        Some(network) => connect_in(network, address),
    }
}

fn connect_here(address: (&str, u16)) -> io::Result<StdStream> {
    let mut last = io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match StdStream::connect_timeout(&address, MAX_CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket belongs to the network of the thread that makes it, so a thread of its own goes there.
fn connect_in(network: &File, address: (&str, u16)) -> io::Result<StdStream> {
    thread::scope(|scope| {
        let connecting = scope.spawn(|| {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
            connect_here(address)
        });
        connecting.join().unwrap_or_else(|_| Err(io::Error::other("the thread failed")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_their_path() {
        let url = SocketUrl::parse("ws://127.0.0.1:6499/s3cret?wait=1").unwrap();
        assert_eq!((url.port(), url.path.as_str()), (6499, "/s3cret"));
        assert_eq!(format!("{url} {url:?}"), "ws://127.0.0.1:6499 SocketUrl(ws://127.0.0.1:6499)");
        let url = SocketUrl::parse("ws://[::1]:80/x").unwrap();
        assert_eq!(url.authority(), "[::1]:80");
        for (text, error) in [
            ("http://localhost", SocketUrlError::NotWs),
            ("localhost:9229", SocketUrlError::NotWs),
            ("wss://localhost", SocketUrlError::Tls),
            ("ws://u:s3cret@localhost", SocketUrlError::HoldsUser),
            ("", SocketUrlError::NotWs),
        ] {
            assert_eq!(SocketUrl::parse(text), Err(error), "{text}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn listeners_on_every_address_are_reached_on_this_host() {
        let at = |listener: &str| SocketUrl::at(listener.parse().unwrap(), "id").to_string();
        assert_eq!(at("0.0.0.0:9229"), "ws://127.0.0.1:9229");
        assert_eq!(at("[::]:9229"), "ws://[::1]:9229");
        assert_eq!(at("10.1.2.3:1"), "ws://10.1.2.3:1");
    }
}
