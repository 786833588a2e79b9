//! Any pprof endpoint, as Go's `net/http/pprof` offers them: CPU profiles over a window of time,
//! others at once.

use std::time::Duration;

use reqwest::Method;

use super::{
    Collected, Source,
    http::{self, Address, Client, Figures, Request},
    session::Session,
};
use crate::{
    format::pprof::{self, Options},
    model::profile::Recording,
};

/// Where Go programs have it, when only the host is given.
const USUAL_PATH: &str = "/debug/pprof/profile";
/// The parameter that says how long, in seconds.
const SECONDS: &str = "seconds";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The endpoint, and how it is asked.
    pub service: http::Settings,
    /// How long; none: as long as the URL says, else `default`.
    pub duration: Option<Duration>,
    /// How long when nobody says.
    pub default: Duration,
    /// The sample type to draw.
    pub sample_type: Option<String>,
    /// Whether the thread is the second frame.
    pub threads: bool,
    /// Heading of the picture.
    pub title: Option<String>,
}

/// An endpoint, ready to be asked.
#[derive(Debug)]
pub struct Endpoint {
    request: Request,
    sample_type: Option<String>,
    threads: bool,
}

impl Settings {
    /// The endpoint itself, and how long its window is; none: it answers at once.
    #[must_use]
    pub fn endpoint(&self) -> (Address, Option<Duration>) {
        let given = &self.service.address;
        let address = match given.path() {
            "" => given.at(USUAL_PATH),
            path if path.ends_with("/pprof") => given.below("profile"),
            _ => given.clone(),
        };
        let said = address.parameter(SECONDS).and_then(|text| text.parse::<u32>().ok());
        let said = said.filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.into()));
        if !address.path().ends_with("/profile") {
            // With seconds in the URL Go waits and sends the difference.
            return (address, said);
        }
        let window = self.duration.or(said).unwrap_or(self.default);
        // Go counts whole seconds.
        let seconds = window.as_secs_f64().ceil() as u64;
        let address = address.with_parameter(SECONDS, &seconds.to_string());
        (address, Some(Duration::from_secs(seconds)))
    }

    /// Prepares to ask.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub fn start(self) -> anyhow::Result<Endpoint> {
        let (address, window) = self.endpoint();
        let request = Request {
            client: Client::new(&self.service)?,
            method: Method::GET,
            address,
            body: None,
            window,
            engine: "pprof",
            title: self.title,
        };
        Ok(Endpoint { request, sample_type: self.sample_type, threads: self.threads })
    }
}

impl Source for Endpoint {
    type Report = Collected<Figures>;

    fn record(self, session: &Session) -> anyhow::Result<(Recording, Self::Report)> {
        let Self { request, sample_type, threads } = self;
        request.record(session, |answer| {
            let sample_type = sample_type.as_deref();
            let process = answer.address.authority();
            pprof::decode(&answer.body, &Options { sample_type, threads, process })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, duration: Option<u64>) -> (String, Option<String>, Option<u64>) {
        let settings = Settings {
            service: http::Settings {
                address: Address::parse(url).unwrap(),
                credential: None,
                ca_cert: None,
            },
            duration: duration.map(Duration::from_millis),
            default: Duration::from_secs(30),
            sample_type: None,
            threads: false,
            title: None,
        };
        let (address, window) = settings.endpoint();
        (address.to_string(), address.parameter("seconds"), window.map(|w| w.as_secs()))
    }

    #[test]
    fn only_cpu_profiles_take_time() {
        let profile = |host: &str| format!("{host}/debug/pprof/profile");
        for (url, duration, seconds) in [
            ("http://h", None, 30),
            ("http://h/debug/pprof/", Some(1200), 2),
            ("http://h/debug/pprof/profile", Some(5000), 5),
            ("http://h/debug/pprof/profile?seconds=7&x=y", None, 7),
            ("http://h/debug/pprof/profile?seconds=7", Some(100), 1),
            ("http://h/debug/pprof/profile?seconds=-1", None, 30),
        ] {
            let expected = (profile("http://h"), Some(seconds.to_string()), Some(seconds));
            assert_eq!(endpoint(url, duration), expected, "{url}");
        }
        let heap = endpoint("http://h/debug/pprof/heap?gc=1", Some(5000));
        assert_eq!(heap, ("http://h/debug/pprof/heap".to_owned(), None, None));
        let delta = endpoint("http://h/debug/pprof/heap?seconds=3", None);
        assert_eq!((delta.1.as_deref(), delta.2), (Some("3"), Some(3)));
    }
}
