//! Recordings by collectors: which service or process, how long, and what shows who asks.

use std::{path::PathBuf, time::Duration};

use super::{
    Attach, DEFAULT_DURATION, Host, PerfPlan, PlanError, PythonPlan,
    attach::{frequency, interval},
    duration, outputs, pid,
};
use crate::{
    cli,
    export::output::Output,
    format::nettrace::Show,
    model::secret::Secret,
    source::{
        api, dotnet, hce,
        http::{self, Address, Credential},
        pprof,
        websocket::SocketUrl,
    },
};

/// A recording by a collector.
#[derive(Clone, Debug)]
pub struct CollectPlan {
    /// Which one, with what is its own.
    pub collector: Collector,
    /// What all have.
    pub common: Common,
}

/// The collectors.
#[derive(Clone, Debug)]
pub enum Collector {
    /// A Bun.
    Bun {
        /// Where its inspector is; none: where the process says.
        url: Option<SocketUrl>,
        /// How it is attached to.
        attach: Attach,
    },
    /// ResQ's coordination service: asked, where a process is not named, or attached to.
    Hce {
        /// How it is asked; none: it is attached to at once.
        service: Option<hce::Settings>,
        /// How it is attached to.
        attach: Attach,
    },
    /// ResQ's Rust service.
    Api(api::Settings),
    /// A .NET process.
    Dotnet(dotnet::Settings),
    /// A Node.
    Node(Attach),
    /// `perf record`.
    Perf(PerfPlan),
    /// A Python process.
    Python(PythonPlan),
    /// A pprof endpoint.
    Pprof(pprof::Settings),
}

/// What all collectors have.
#[derive(Clone, Debug)]
pub struct Common {
    /// What is written.
    pub outputs: Vec<Output>,
    /// Where figures about the recording go.
    pub stats: Option<PathBuf>,
    /// What is to be said before it begins.
    pub warnings: Vec<String>,
}

/// What was typed for all collectors, parsed.
pub(super) struct Typed {
    pub url: Option<Address>,
    pub pid: Option<u32>,
    pub duration: Option<Duration>,
    pub threads: bool,
    pub title: Option<String>,
    pub access: cli::Access,
    pub common: Common,
}

pub(super) fn typed(typed: cli::Common) -> Result<Typed, PlanError> {
    let cli::Common { url, pid: process, duration: time, threads, access, written, stats } = typed;
    Ok(Typed {
        url: url.as_deref().map(Address::parse).transpose()?,
        pid: process.as_deref().map(pid).transpose()?,
        duration: time.as_deref().map(duration).transpose()?,
        threads,
        title: written.title,
        access,
        common: Common { outputs: outputs(&written.output)?, stats, warnings: Vec::new() },
    })
}

/// What was typed for a collector that asks no service, parsed.
pub(super) struct Local {
    pub pid: Option<u32>,
    pub duration: Option<Duration>,
    pub threads: bool,
    pub title: Option<String>,
    pub common: Common,
}

/// The options of a collector that asks no service.
pub(super) fn local(common: cli::Common, command: &'static str) -> Result<Local, PlanError> {
    let access = &common.access;
    let given = [
        ("--url", common.url.is_some()),
        ("--token", access.token.is_some()),
        ("--token-file", access.token_file.is_some()),
        ("--api-key", access.api_key.is_some()),
        ("--ca-cert", access.ca_cert.is_some()),
    ];
    if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
        return Err(PlanError::NoService { command, option });
    }
    let Typed { pid, duration, threads, title, common, .. } = typed(common)?;
    Ok(Local { pid, duration, threads, title, common })
}

/// The plan of `flame-graph pprof`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn pprof(pprof: cli::Pprof) -> Result<CollectPlan, PlanError> {
    let cli::Pprof { common, sample_type } = pprof;
    let Typed { url, pid, duration, threads, title, access, mut common } = typed(common)?;
    let address = url.ok_or(PlanError::Needs {
        option: "pprof",
        needs: "--url, such as --url http://localhost:6060/debug/pprof/profile",
    })?;
    if pid.is_some() {
        return Err(PlanError::NoPid("pprof"));
    }
    // It may be anybody's: what the environment holds is for ResQ's services.
    let service = service(address, access, &Sends::default(), &mut common.warnings)?;
    let default = DEFAULT_DURATION;
    let settings = pprof::Settings { service, duration, default, sample_type, threads, title };
    Ok(CollectPlan { collector: Collector::Pprof(settings), common })
}

/// Where ResQ's coordination service listens.
const HCE_URL: &str = "http://localhost:3000";
/// Where ResQ's Rust service listens.
const API_URL: &str = "http://localhost:8080";

/// The plan of `flame-graph hce`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn hce(hce: cli::Hce, host: &Host) -> Result<CollectPlan, PlanError> {
    let cli::Hce { common, interval: text, idle } = hce;
    let Typed { url, pid, duration, threads, title, access, mut common } = typed(common)?;
    let interval = interval(text)?;
    let duration = duration.unwrap_or(DEFAULT_DURATION);
    let frequency = frequency(interval, host);
    let title_too = title.clone();
    let attach = Attach { pid, duration, interval, idle, threads, title: title_too, frequency };
    if pid.is_some() {
        if url.is_some() {
            return Err(PlanError::TwoTargets("--pid", "--url"));
        }
        return Ok(CollectPlan { collector: Collector::Hce { service: None, attach }, common });
    }
    let address = url.map_or_else(|| Address::parse(HCE_URL), Ok)?;
    let service = service(address, access, &Sends::token_first(host), &mut common.warnings)?;
    if service.credential.is_none() {
        return Err(PlanError::NoCredential("hce"));
    }
    let service = Some(hce::Settings { service, duration, interval, idle, title });
    Ok(CollectPlan { collector: Collector::Hce { service, attach }, common })
}

/// The plan of `flame-graph dotnet`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn dotnet(dotnet: cli::Dotnet) -> Result<CollectPlan, PlanError> {
    let cli::Dotnet { common, alloc, idle } = dotnet;
    let Local { pid, duration, threads, title, common } = local(common, "dotnet")?;
    let duration = duration.unwrap_or(DEFAULT_DURATION);
    let show = Show { threads, idle };
    let settings = dotnet::Settings { pid, duration, alloc, show, title };
    Ok(CollectPlan { collector: Collector::Dotnet(settings), common })
}

/// The plan of `flame-graph api`.
///
/// # Errors
/// The first contradiction or unusable value.
pub fn api(api: cli::Api, host: &Host) -> Result<CollectPlan, PlanError> {
    let Typed { url, pid, duration, threads, title, access, mut common } = typed(api.common)?;
    if pid.is_some() {
        return Err(PlanError::NoPid("api"));
    }
    let address = url.map_or_else(|| Address::parse(API_URL), Ok)?;
    let service = service(address, access, &Sends::key_first(host), &mut common.warnings)?;
    let duration = duration.unwrap_or(DEFAULT_DURATION);
    let settings = api::Settings { service, duration, threads, title };
    Ok(CollectPlan { collector: Collector::Api(settings), common })
}

/// Which credentials a service may see beside those that were typed, and which it sees when there
/// are two.
#[derive(Default)]
struct Sends {
    token: Option<Secret>,
    api_key: Option<Secret>,
    key_first: bool,
}

impl Sends {
    /// Of ResQ's services, those that want a token.
    fn token_first(host: &Host) -> Self {
        Self { token: host.token.clone(), api_key: host.api_key.clone(), key_first: false }
    }

    /// Of ResQ's services, those that want a key.
    fn key_first(host: &Host) -> Self {
        Self { key_first: true, ..Self::token_first(host) }
    }

    fn choose(&self, token: Option<Credential>, key: Option<Secret>) -> Option<Credential> {
        let key = key.map(Credential::ApiKey);
        if self.key_first { key.or(token) } else { token.or(key) }
    }
}

/// How a service is asked. What was typed goes before what the environment holds.
fn service(
    address: Address,
    access: cli::Access,
    sends: &Sends,
    warnings: &mut Vec<String>,
) -> Result<http::Settings, PlanError> {
    let cli::Access { token, token_file, api_key, ca_cert } = access;
    let given = |secret: Option<Secret>| secret.and_then(|secret| Secret::of(secret.expose()));
    let (token, api_key) = (given(token), given(api_key));
    if token.is_some() && token_file.is_some() {
        return Err(PlanError::TwoCredentials);
    }
    if token.is_some() || api_key.is_some() {
        let option = if token.is_some() { "--token" } else { "--api-key" };
        warnings.push(format!(
            "any user of this host can read {option} in the process list; a variable or \
             --token-file keeps it private"
        ));
    }
    let token = token.map(Credential::Token).or(token_file.map(Credential::TokenFile));
    let typed = sends.choose(token, api_key);
    let credential = typed.or_else(|| {
        sends.choose(sends.token.clone().map(Credential::Token), sends.api_key.clone())
    });
    if credential.is_some() && address.is_readable() {
        warnings.push(format!("the credential goes to {address} unencrypted; better use https"));
    }
    Ok(http::Settings { address, credential, ca_cert })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{
        cli::Cli,
        plan::{Host, Plan},
    };

    fn plan(args: &str) -> Result<CollectPlan, String> {
        plan_on(&Host::default(), args)
    }

    fn plan_on(host: &Host, args: &str) -> Result<CollectPlan, String> {
        let words = ["flame-graph"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match Plan::new(cli, host).map_err(|error| error.to_string())? {
            Plan::Collect(plan) => Ok(*plan),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_pprof_endpoint_needs_its_url() {
        assert!(plan("pprof").unwrap_err().contains("--url"));
        assert!(plan("pprof --url localhost:6060").unwrap_err().contains("http"));
        assert!(plan("pprof --url http://h --pid 1").unwrap_err().contains("--pid"));
        assert!(plan("pprof --url http://h --duration 0").unwrap_err().contains("--duration"));
        let CollectPlan { collector: Collector::Pprof(pprof), common } =
            plan("pprof --url http://h:6060 --sample-type alloc_space --threads").unwrap()
        else {
            panic!()
        };
        assert_eq!(pprof.sample_type.as_deref(), Some("alloc_space"));
        assert_eq!((pprof.duration, pprof.threads), (None, true));
        assert!(pprof.service.credential.is_none() && common.warnings.is_empty());
    }

    #[test]
    fn credentials_are_told_apart_and_never_shown() {
        let plan = |args: &str| plan(&format!("pprof --url {args}"));
        let both = plan("https://h --token s3cret --api-key k3y").unwrap();
        assert!(!format!("{both:?}").contains("s3cret") && !format!("{both:?}").contains("k3y"));
        assert_eq!(both.common.warnings.len(), 1);
        let Collector::Pprof(pprof) = both.collector else { panic!() };
        assert!(matches!(pprof.service.credential, Some(Credential::Token(_))));
        let plain = plan("http://10.0.0.1 --token-file t").unwrap();
        assert!(plain.common.warnings[0].contains("unencrypted"), "{plain:?}");
        assert!(plan("http://localhost --token-file t").unwrap().common.warnings.is_empty());
        assert!(plan("http://h --token t --token-file t").unwrap_err().contains("one of"));
    }
    #[test]
    fn typed_credentials_go_before_those_of_the_environment() {
        let secret = |text: &str| Secret::of(text).unwrap();
        let host = Host { token: Secret::of("t"), api_key: Secret::of("k"), ..Host::default() };
        let sent = |args: &str| match plan_on(&host, args).unwrap().collector {
            Collector::Hce { service, .. } => service.unwrap().service.credential,
            Collector::Api(api) => api.service.credential,
            Collector::Pprof(pprof) => pprof.service.credential,
            other => panic!("{other:?}"),
        };
        assert_eq!(sent("hce"), Some(Credential::Token(secret("t"))));
        assert_eq!(sent("api"), Some(Credential::ApiKey(secret("k"))));
        assert_eq!(sent("pprof --url http://h"), None);
        assert_eq!(sent("hce --api-key x"), Some(Credential::ApiKey(secret("x"))));
        assert_eq!(sent("api --token x"), Some(Credential::Token(secret("x"))));
        assert_eq!(sent("hce --token  x --api-key y"), Some(Credential::Token(secret("x"))));
        assert_eq!(Secret::of(" \n"), None);
    }

    #[test]
    fn a_process_is_no_service() {
        let dotnet = |args: &str| match plan(&format!("dotnet {args}"))?.collector {
            Collector::Dotnet(dotnet) => Ok(dotnet),
            other => Err(format!("{other:?}")),
        };
        let settings = dotnet("").unwrap();
        assert_eq!((settings.pid, settings.duration), (None, DEFAULT_DURATION));
        assert!(!settings.alloc && settings.show == Show::default());
        let settings = dotnet("--pid 12 -d 2 --idle --threads").unwrap();
        assert_eq!((settings.pid, settings.duration), (Some(12), Duration::from_secs(2)));
        assert_eq!(settings.show, Show { threads: true, idle: true });
        assert!(dotnet("--alloc").unwrap().alloc);
        assert!(dotnet("--alloc --idle").unwrap_err().contains("--idle"));
        assert!(dotnet("--url http://h").unwrap_err().contains("--url"));
        assert!(dotnet("--token-file t").unwrap_err().contains("--token-file"));
    }

    #[test]
    fn services_have_their_usual_places() {
        let CollectPlan { collector: Collector::Hce { service: Some(hce), attach }, .. } =
            plan("hce --api-key k").unwrap()
        else {
            panic!()
        };
        assert_eq!((attach.pid, attach.duration), (None, DEFAULT_DURATION));
        assert_eq!(hce.service.address.to_string(), "http://localhost:3000/");
        assert_eq!(hce.duration, DEFAULT_DURATION);
        assert_eq!(hce.interval, Duration::from_micros(100));
        assert!(plan("hce").unwrap_err().contains("RESQ_TOKEN"));
        assert!(plan("hce --api-key k --interval 0").unwrap_err().contains("--interval"));
        assert!(plan("hce --api-key k --interval 2s").unwrap_err().contains("--interval"));
        let both = plan("hce --pid 1 --url http://localhost").unwrap_err();
        assert!(both.contains("two targets"), "{both}");
        // Who attaches needs no credential.
        let CollectPlan { collector: Collector::Hce { service, attach }, .. } =
            plan("hce --pid 12").unwrap()
        else {
            panic!()
        };
        assert!(service.is_none() && attach.pid == Some(12));
        let CollectPlan { collector: Collector::Api(api), .. } = plan("api -d 1.5").unwrap() else {
            panic!()
        };
        assert_eq!(api.service.address.to_string(), "http://localhost:8080/");
        assert_eq!(api.window(), Duration::from_secs(2));
    }
}
