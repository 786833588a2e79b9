//! Asking services over HTTP: whom a credential is sent to, which redirects are followed, how much
//! is read and how long is waited. What answers hold is for [`crate::format`] to say.

mod address;
pub mod body;
mod error;
mod request;

use std::{fs, io::Read as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use reqwest::{
    Certificate, Method, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderValue, LOCATION, RETRY_AFTER,
    },
    redirect::Policy,
};
use tokio::{runtime, time::timeout};

pub use address::{Address, AddressError};
pub use error::HttpError;
use error::innermost;
pub use request::{Figures, Request};

use super::session::Session;
use crate::{format::gzip, model::secret::Secret};

/// Larger answers are refused, in bytes, also as they are when unpacked.
pub const MAX_BODY: usize = 256 << 20;
/// How long a connection may take.
const MAX_CONNECT: Duration = Duration::from_secs(10);
/// How long after the end of its window a service may answer.
pub const GRACE: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: usize = 10;
/// Files with a token or with certificates are shorter.
const MAX_FILE: u64 = 4 << 20;

/// What shows a service who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// `Authorization: Bearer …`.
    Token(Secret),
    /// The same, from a file.
    TokenFile(PathBuf),
    /// `X-API-Key: …`.
    ApiKey(Secret),
}

/// Which service, and how it is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// What it wants to see; at most one.
    pub credential: Option<Credential>,
    /// A file with certificates to trust beside the system's.
    pub ca_cert: Option<PathBuf>,
}

/// A service, ready to be asked.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    /// The one header with a credential, and the secret in it.
    credential: Option<(&'static str, HeaderValue, Secret)>,
}

/// A success.
#[derive(Debug)]
pub struct Answer {
    /// Who gave it.
    pub address: Address,
    /// Its status.
    pub status: StatusCode,
    /// Its body, unpacked.
    pub body: Vec<u8>,
}

impl Answer {
    /// The error that its body cannot be drawn, because of `cause`.
    #[must_use]
    pub fn wrong(&self, cause: impl ToString) -> HttpError {
        HttpError::Content {
            address: self.address.clone(),
            status: self.status,
            content: body::kind(&self.body).to_owned(),
            cause: cause.to_string(),
        }
    }
}

impl Client {
    /// Prepares to ask; nothing is sent yet.
    ///
    /// # Errors
    /// A file with a token or certificates that cannot be used.
    pub fn new(settings: &Settings) -> anyhow::Result<Self> {
        // It fails when there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = match &settings.ca_cert {
            Some(path) => {
                let parsed = Certificate::from_pem_bundle(&read(path)?);
                let parsed = parsed.ok().filter(|all| !all.is_empty());
                parsed.with_context(|| format!("--ca-cert: {path:?} holds no PEM certificate"))?
            }
            None => Vec::new(),
        };
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(concat!("flame-graph/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                .connect_timeout(MAX_CONNECT);
            // A proxy's own loopback is not ours.
            if settings.address.is_loopback() { builder.no_proxy() } else { builder }
        };
        // A system without any roots cannot verify by them; http and --ca-cert work still.
        let http = builder()
            .tls_certs_merge(certificates.clone())
            .build()
            .or_else(|_| builder().tls_certs_only(certificates).build())
            .context("cannot prepare to ask a service")?;
        let credential = settings.credential.as_ref().map(header).transpose()?;
        Ok(Self { http, credential })
    }

    /// Asks, and waits for the answer for at most `wait`.
    ///
    /// # Errors
    /// What went wrong, with the status if there was one.
    pub async fn ask(
        &self,
        method: Method,
        address: &Address,
        body: Option<&serde_json::Value>,
        wait: Duration,
    ) -> Result<Answer, HttpError> {
        let asked = timeout(wait, self.follow(method, address, body)).await;
        asked.unwrap_or_else(|_| Err(HttpError::TimeOut { address: address.clone(), after: wait }))
    }

    async fn follow(
        &self,
        mut method: Method,
        address: &Address,
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, HttpError> {
        let mut at = address.clone();
        let mut body = body;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&method, &at, body).await?;
            let status = response.status();
            let location = response.headers().get(LOCATION).filter(|_| status.is_redirection());
            let Some(location) = location else { return self.read(at, response).await };
            let elsewhere = |to: String| HttpError::Elsewhere { address: at.clone(), status, to };
            let next = location.to_str().ok().and_then(|location| at.join(location));
            let next = next.ok_or_else(|| elsewhere("what is no http or https URL".to_owned()))?;
            if !at.same_service(&next) {
                return Err(elsewhere(next.to_string()));
            }
            if status == StatusCode::SEE_OTHER {
                method = Method::GET;
                body = None;
            }
            at = next;
        }
        Err(HttpError::Elsewhere {
            address: address.clone(),
            status: StatusCode::FOUND,
            to: format!("more than {MAX_REDIRECTS} times, to itself in the end"),
        })
    }

    async fn send(
        &self,
        method: &Method,
        at: &Address,
        body: Option<&serde_json::Value>,
    ) -> Result<Response, HttpError> {
        let mut request = self.http.request(method.clone(), at.0.as_ref().clone());
        request = request.header(ACCEPT_ENCODING, "gzip");
        if let Some((name, value, _)) = &self.credential {
            request = request.header(*name, value.clone());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.map_err(|error| HttpError::Unreachable {
            address: at.clone(),
            cause: innermost(&error),
        })
    }

    async fn read(&self, address: Address, mut response: Response) -> Result<Answer, HttpError> {
        let status = response.status();
        let header = |name| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let retry_after = header(RETRY_AFTER).map(|when| in_seconds(&when));
        let encoding = header(CONTENT_ENCODING).filter(|encoding| encoding != "identity");
        let limit = MAX_BODY >> 20;
        let too_large = || HttpError::TooLarge { address: address.clone(), status, limit };
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY => return Err(too_large()),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                // What a refusal says is only for people.
                Err(_) if !status.is_success() => break,
                Err(error) => {
                    let cause = innermost(&error);
                    return Err(HttpError::Cut { address, status, bytes: body.len(), cause });
                }
            }
        }
        // By its content, as profiles are packed by themselves and again on the way.
        for _ in 0..2 {
            if gzip::is_packed(&body) {
                body = match gzip::unpack(&body, MAX_BODY) {
                    Ok(body) => body,
                    Err(gzip::GzipError::TooLarge { .. }) => return Err(too_large()),
                    Err(error) => {
                        return Err(Answer { address, status, body }.wrong(error));
                    }
                };
            }
        }
        if !status.is_success() {
            let reason = self.hide(body::reason(&body));
            let sent = self.credential.is_some();
            return Err(HttpError::Refused { address, status, reason, sent, retry_after });
        }
        match encoding {
            Some(other) if other != "gzip" && other != "x-gzip" => {
                let cause = format!("it is packed as {other:?}, which was not asked for");
                Err(Answer { address, status, body }.wrong(cause))
            }
            _ => Ok(Answer { address, status, body }),
        }
    }

    /// A service may repeat what it was sent.
    fn hide(&self, text: String) -> String {
        match &self.credential {
            Some((_, _, secret)) => text.replace(secret.expose(), "…"),
            None => text,
        }
    }
}

/// A `Retry-After`: seconds, or a date.
fn in_seconds(when: &str) -> String {
    match when.parse::<u64>() {
        Ok(seconds) => format!("{seconds} s"),
        Err(_) => when.chars().filter(|letter| !letter.is_control()).take(40).collect(),
    }
}

fn header(credential: &Credential) -> anyhow::Result<(&'static str, HeaderValue, Secret)> {
    let (name, prefix, secret) = match credential {
        Credential::Token(token) => (AUTHORIZATION.as_str(), "Bearer ", token.clone()),
        Credential::ApiKey(key) => ("x-api-key", "", key.clone()),
        Credential::TokenFile(path) => {
            let text = String::from_utf8(read(path)?).ok();
            let token = text.and_then(|text| Secret::of(&text));
            let token = token.with_context(|| format!("--token-file: {path:?} holds no token"))?;
            (AUTHORIZATION.as_str(), "Bearer ", token)
        }
    };
    let Ok(mut value) = HeaderValue::from_str(&format!("{prefix}{}", secret.expose())) else {
        bail!("the credential holds characters that HTTP cannot send");
    };
    value.set_sensitive(true);
    Ok((name, value, secret))
}

fn read(path: &PathBuf) -> anyhow::Result<Vec<u8>> {
    let file = fs::File::open(path).with_context(|| format!("cannot read {path:?}"))?;
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {path:?}"))?;
    Ok(bytes)
}

/// Waits for an answer on this thread; none: the session was ended first.
///
/// # Errors
/// Those of the answer.
pub fn until_stopped<T>(
    session: &Session,
    answer: impl Future<Output = Result<T, HttpError>>,
) -> anyhow::Result<Option<T>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            biased;
            answer = answer => Ok(Some(answer?)),
            () = session.stopped() => Ok(None),
        }
    })
}
