//! Debug files from debuginfod servers, when asked for: of files that were sampled and whose
//! functions have no names on this host.
//!
//! The protocol is elfutils' (`debuginfod(8)`): `GET SERVER/buildid/HEX/debuginfo`. All files are
//! asked for at once, within a bound of time: servers that are away cost seconds, never the
//! recording. What comes must have the build ID that it was asked by, and is kept ([`store`]).

mod store;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, Response, StatusCode, Url, redirect::Policy};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};

use store::Store;
pub use store::file_in;

/// How long a connection may take, and each wait for more of an answer.
const MAX_CONNECT: Duration = Duration::from_secs(3);
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// How long all of it may take.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Larger files are not taken, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// Files asked for at the same time.
const AT_ONCE: usize = 8;
const MAX_REDIRECTS: usize = 5;

/// Whom to ask, and where answers are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses of servers, the first to be asked first.
    pub servers: Vec<Url>,
    /// The folder of files that came before, which debuginfod's other clients share; none: what
    /// comes is not kept.
    pub cache: Option<PathBuf>,
    /// Told in one sentence what went wrong.
    pub tell: fn(fmt::Arguments<'_>),
}

/// What came.
pub struct Fetched {
    store: Store,
    ids: Vec<Vec<u8>>,
}

impl Fetched {
    /// The folder that the files lie in, each where [`file_in`] says.
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// Whether the file of this build ID came.
    pub fn has(&self, id: &[u8]) -> bool {
        self.ids.iter().any(|other| other == id)
    }
}

/// Asks for the debug files of these build IDs. None: nothing came.
pub fn fetch(settings: &Settings, ids: Vec<Vec<u8>>) -> Option<Fetched> {
    let asked = ids.len();
    let result = Store::open(settings.cache.as_deref()).and_then(|store| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let servers = settings.servers.iter().filter_map(Server::new).collect();
        Ok((runtime.block_on(ask_all(&store, servers, ids)), store))
    });
    let (got, why) = match result {
        Ok((Got { ids, failed }, store)) => (Some(Fetched { store, ids }), failed),
        Err(error) => (None, Some(format!("they cannot be kept: {error}"))),
    };
    let got = got.filter(|got| !got.ids.is_empty());
    if let Some(why) = why {
        let came = got.as_ref().map_or(0, |got| got.ids.len());
        (settings.tell)(format_args!(
            "note: of {asked} debug files that debuginfod was asked for {came} came: {why}\n"
        ));
    }
    got
}

/// What all servers gave.
#[derive(Default)]
struct Got {
    ids: Vec<Vec<u8>>,
    /// The first thing that went wrong.
    failed: Option<String>,
}

async fn ask_all(store: &Store, servers: Vec<Server>, ids: Vec<Vec<u8>>) -> Got {
    let servers = Arc::new(servers);
    let got = Arc::new(Mutex::new(Got::default()));
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for id in ids {
        let (store, servers, got) = (store.clone(), Arc::clone(&servers), Arc::clone(&got));
        let turns = Arc::clone(&turns);
        tasks.spawn(async move {
            // It fails when it is closed, which nobody does.
            let _turn = turns.acquire().await;
            let found = ask(&store, &servers, &id).await;
            let mut got = got.lock().unwrap_or_else(PoisonError::into_inner);
            match found {
                Ok(true) => got.ids.push(id),
                Ok(false) => {}
                Err(why) => got.failed = got.failed.take().or(Some(why)),
            }
        });
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    let in_time = timeout(MAX_TIME, all).await.is_ok();
    let mut got = got.lock().unwrap_or_else(PoisonError::into_inner);
    let mut got = std::mem::take(&mut *got);
    if !in_time {
        let late = format!("the others did not come within {} s", MAX_TIME.as_secs());
        got.failed = got.failed.or(Some(late));
    }
    got
}

/// Asks one server after the other; whether one of them has the file.
async fn ask(store: &Store, servers: &[Server], id: &[u8]) -> Result<bool, String> {
    let mut failed = None;
    for server in servers {
        match server.ask(store, id).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => failed = failed.or(Some(format!("{} {why}", server.name))),
        }
    }
    failed.map_or(Ok(false), Err)
}

/// A server.
struct Server {
    url: Url,
    /// Host and port: the rest may hold a credential.
    name: String,
    client: Client,
    /// It did not answer, and is not asked again.
    away: AtomicBool,
}

impl Server {
    /// None: this host has no means to ask it.
    fn new(url: &Url) -> Option<Self> {
        // It fails when there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = url.host_str()?.trim_matches(['[', ']']);
        let is_loopback =
            host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        let builder = Client::builder()
            .user_agent(concat!("flame-graph/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::limited(MAX_REDIRECTS))
            .connect_timeout(MAX_CONNECT)
            .read_timeout(MAX_SILENCE);
        // A proxy's own loopback is not ours.
        let builder = if is_loopback { builder.no_proxy() } else { builder };
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        Some(Self {
            name: format!("{host}{port}"),
            url: url.clone(),
            client: builder.build().ok()?,
            away: AtomicBool::new(false),
        })
    }

    /// Has a file of this build ID stored; whether the server has it.
    async fn ask(&self, store: &Store, id: &[u8]) -> Result<bool, String> {
        if self.away.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut url = self.url.clone();
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{path}/buildid/{}/debuginfo", store::hex(id)));
        let response = self.client.get(url).send().await.map_err(|error| {
            self.away.store(true, Ordering::Relaxed);
            if error.is_timeout() { "does not answer" } else { "cannot be reached" }.to_owned()
        })?;
        match response.status() {
            StatusCode::OK => take(store, id, response).await.map(|()| true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(format!("answers {status}")),
        }
    }
}

/// Stores what a server answers.
async fn take(store: &Store, id: &[u8], mut response: Response) -> Result<(), String> {
    let kept = |error: std::io::Error| format!("sends what cannot be kept: {error}");
    let mut file = store.begin(id).map_err(kept)?;
    let mut size = 0;
    while let Some(chunk) =
        response.chunk().await.map_err(|_| "stops in the midst of a file".to_owned())?
    {
        size += chunk.len() as u64;
        if size > MAX_FILE {
            return Err(format!("sends a file of more than {} MB", MAX_FILE >> 20));
        }
        file.write_all(&chunk).map_err(kept)?;
    }
    file.finish(id).map_err(kept)
}
