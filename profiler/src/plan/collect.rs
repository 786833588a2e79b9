//! Recordings by collectors: which service or process, how long, and what shows who asks.

use std::{path::PathBuf, time::Duration};

use super::{DEFAULT_DURATION, PlanError, duration, outputs, pid};
use crate::{
    cli,
    export::output::Output,
    model::secret::Secret,
    source::{
        http::{self, Address, Credential},
        pprof,
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
struct Typed {
    url: Option<Address>,
    pid: Option<u32>,
    duration: Option<Duration>,
    threads: bool,
    title: Option<String>,
    access: cli::Access,
    common: Common,
}

fn typed(typed: cli::Common) -> Result<Typed, PlanError> {
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
        return Err(PlanError::TwoTargets("--url", "--pid"));
    }
    let service = service(address, access, &mut common.warnings)?;
    let default = DEFAULT_DURATION;
    let settings = pprof::Settings { service, duration, default, sample_type, threads, title };
    Ok(CollectPlan { collector: Collector::Pprof(settings), common })
}

/// How a service is asked.
fn service(
    address: Address,
    access: cli::Access,
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
    let credential = token.or(api_key.map(Credential::ApiKey));
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
        let words = ["flame-graph"].into_iter().chain(args.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        match Plan::new(cli, &Host::default()).map_err(|error| error.to_string())? {
            Plan::Collect(plan) => Ok(*plan),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_pprof_endpoint_needs_its_url() {
        assert!(plan("pprof").unwrap_err().contains("--url"));
        assert!(plan("pprof --url localhost:6060").unwrap_err().contains("http"));
        assert!(plan("pprof --url http://h --pid 1").unwrap_err().contains("two targets"));
        assert!(plan("pprof --url http://h --duration 0").unwrap_err().contains("--duration"));
        let CollectPlan { collector: Collector::Pprof(pprof), common } =
            plan("pprof --url http://h:6060 --sample-type alloc_space --threads").unwrap();
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
        let Collector::Pprof(pprof) = both.collector;
        assert!(matches!(pprof.service.credential, Some(Credential::Token(_))));
        let plain = plan("http://10.0.0.1 --token-file t").unwrap();
        assert!(plain.common.warnings[0].contains("unencrypted"), "{plain:?}");
        assert!(plan("http://localhost --token-file t").unwrap().common.warnings.is_empty());
        assert!(plan("http://h --token t --token-file t").unwrap_err().contains("one of"));
    }
}
