//! Where a service is: a URL that messages can show.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use reqwest::Url;

/// The URL of a service or of one of its endpoints. Shown without its query, which may hold keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(pub(super) Box<Url>);

/// Why text is no [`Address`]. The text itself may hold a password, so it is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Something else.
    #[error("this is not an http or https URL, such as http://localhost:3000")]
    NotHttp,
    /// A user or a password in it.
    #[error("it holds a user or a password, which are not sent; give --token-file or --api-key")]
    HoldsUser,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let mut url = Url::parse(text.trim()).map_err(|_| AddressError::NotHttp)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(AddressError::NotHttp);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(AddressError::HoldsUser);
        }
        url.set_fragment(None);
        Ok(Self(Box::new(url)))
    }

    /// The address of an endpoint below this one, whether or not this one ends in a slash.
    #[must_use]
    pub fn below(&self, path: &str) -> Self {
        let path = format!("{}/{path}", self.path());
        self.at(&path)
    }

    /// The same with another path.
    #[must_use]
    pub fn at(&self, path: &str) -> Self {
        let mut url = self.0.clone();
        url.set_path(path);
        Self(url)
    }

    /// Its path, without slashes at the end.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }

    /// The value of a parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = self.0.query_pairs();
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The same with a parameter set.
    #[must_use]
    pub fn with_parameter(&self, name: &str, value: &str) -> Self {
        let mut url = self.0.clone();
        let others: Vec<_> = self.0.query_pairs().filter(|(key, _)| key != name).collect();
        url.query_pairs_mut().clear().extend_pairs(others).append_pair(name, value);
        Self(url)
    }

    /// Host and port, for captions.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.0.authority()
    }

    /// The host, by name or address; one of version 6 in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The port, also where it is the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(80)
    }

    /// Whether it stands for this very host.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default().trim_end_matches('.');
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => {
                ip == Ipv6Addr::LOCALHOST || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
            }
            Ok(IpAddr::V4(ip)) => ip.is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        }
    }

    /// Whether what is sent there can be read on the way.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.0.scheme() == "http" && !self.is_loopback()
    }

    /// Whether a redirect to `other` stays with the same service: the same host and port, or from
    /// http to https on that host. Another port may be somebody else's.
    #[must_use]
    pub fn same_service(&self, other: &Self) -> bool {
        let (from, to) = (&self.0, &other.0);
        let upgrade = from.scheme() == "http" && to.scheme() == "https";
        let same = from.scheme() == to.scheme() && self.port() == other.port();
        from.host_str() == to.host_str() && (upgrade || same)
    }

    /// Where a `Location` leads from here.
    #[must_use]
    pub fn join(&self, location: &str) -> Option<Self> {
        Self::parse(self.0.join(location).ok()?.as_str()).ok()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.0.scheme(), self.0.authority(), self.0.path())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    #[test]
    fn endpoints_lie_below_the_base() {
        for (base, expected) in [
            ("http://localhost:3000", "http://localhost:3000/admin/p"),
            ("http://localhost:3000/", "http://localhost:3000/admin/p"),
            ("https://x.org/hce/v1", "https://x.org/hce/v1/admin/p"),
            ("https://x.org/hce//?key=1#frag", "https://x.org/hce/admin/p"),
            ("http://[::1]:80/", "http://[::1]/admin/p"),
        ] {
            assert_eq!(address(base).below("admin/p").to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_service_is_refused_without_being_repeated() {
        for text in ["", "localhost:3000", "ftp://x", "file:///etc/passwd", "http://"] {
            assert!(matches!(Address::parse(text), Err(AddressError::NotHttp)), "{text}");
        }
        for text in ["http://u:secret@host/", "http://u@host"] {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error, AddressError::HoldsUser);
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn only_this_host_is_loopback() {
        for text in
            ["http://localhost", "http://a.localhost.:1", "http://127.8.9.1", "http://[::1]"]
        {
            assert!(address(text).is_loopback(), "{text}");
        }
        assert!(address("http://[::ffff:127.0.0.1]:8").is_loopback());
        for text in ["http://localhost.evil.org", "http://10.0.0.1", "http://[::2]"] {
            assert!(address(text).is_readable(), "{text}");
        }
        assert!(!address("https://10.0.0.1").is_readable());
    }

    #[test]
    fn redirects_stay_with_the_service() {
        let from = address("http://host:3000/a/b?c");
        for (location, stays) in [
            ("/x", true),
            ("x?seconds=1", true),
            ("http://HOST:3000/", true),
            ("https://host:3443/", true),
            ("http://host:3001/", false),
            ("http://other:3000/", false),
            ("//other:3000/", false),
        ] {
            assert_eq!(from.same_service(&from.join(location).unwrap()), stays, "{location}");
        }
        assert!(!address("https://h").same_service(&address("http://h")));
        assert!(from.join("file:///etc/passwd").is_none());
        assert!(from.join("http://user:p@host:3000/").is_none());
    }

    #[test]
    fn parameters_are_set_once_and_never_shown() {
        let address = address("http://h/p?seconds=5&key=k").with_parameter("seconds", "30");
        assert_eq!(address.parameter("seconds").as_deref(), Some("30"));
        assert_eq!(address.parameter("key").as_deref(), Some("k"));
        assert_eq!(format!("{address} {address:?}"), "http://h/p Address(http://h/p)");
    }
}
