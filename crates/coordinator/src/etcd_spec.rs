//! `[etcd]` of the configuration: where a journal lies that several coordinators share.

use std::path::PathBuf;

use serde::Deserialize;

/// More than this no cluster of etcd has.
const ENDPOINTS_MAX: usize = 9;
/// Below etcd's own shortest lease, which follows from its election timeout, it would be raised.
pub const LEASE_S_MIN: u32 = 2;
/// A leader that died is missed for so long at most, seconds.
pub const LEASE_S_MAX: u32 = 60;
const LEASE_S: u32 = 3;

/// The journal is in etcd, and whoever holds the lease there leads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EtcdSpec {
    /// Its members: `https://HOST:PORT`, or `http://HOST:PORT` where nobody else is.
    pub endpoints: Vec<String>,
    /// Everything of this fleet is below it, like `/transhume/prod`.
    pub prefix: String,
    /// Where other coordinators send whoever asks them while this one leads; from `api` and
    /// `trust` where absent.
    #[serde(default)]
    pub advertise: Option<String>,
    /// A leader that is not heard of for so long leads no more, seconds.
    #[serde(default = "lease_s")]
    pub lease_s: u32,
    /// The authority that signed the members' certificates; needed for `https://`.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// This coordinator's certificate for etcd.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its private key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

fn lease_s() -> u32 {
    LEASE_S
}

impl EtcdSpec {
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            let found = self.endpoints.len();
            return Err(format!(
                "`endpoints` names {found} members of etcd, not 1 to {ENDPOINTS_MAX}"
            ));
        }
        for endpoint in &self.endpoints {
            let at = endpoint
                .strip_prefix("https://")
                .or_else(|| endpoint.strip_prefix("http://"));
            let port = at
                .and_then(|at| at.rsplit_once(':'))
                .map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(_))) {
                return Err(format!(
                    "`{endpoint}` is no member of etcd: write https://HOST:PORT or http://HOST:PORT"
                ));
            }
            if endpoint.starts_with("https://") != self.authority.is_some() {
                return Err(format!(
                    "`{endpoint}` and `authority` do not fit: https:// needs it, http:// has none"
                ));
            }
        }
        let parts = self.prefix.strip_prefix('/').map(|rest| rest.split('/'));
        if !parts.is_some_and(|mut parts| parts.all(|part| !part.is_empty())) {
            let prefix = &self.prefix;
            return Err(format!("`{prefix}` is no prefix: write it like /transhume/prod"));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err("`certificate` and `key` belong together".to_owned());
        }
        if self.certificate.is_some() && self.authority.is_none() {
            return Err("`certificate` needs `authority`: it is shown over https:// only".to_owned());
        }
        if !(LEASE_S_MIN..=LEASE_S_MAX).contains(&self.lease_s) {
            let found = self.lease_s;
            return Err(format!(
                "`lease_s` is {found}, not {LEASE_S_MIN} to {LEASE_S_MAX}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let spec = EtcdSpec {
            endpoints: vec!["http://10.0.0.1:2379".to_owned()],
            prefix: "/transhume/lab".to_owned(),
            advertise: None,
            lease_s: LEASE_S,
            authority: None,
            certificate: None,
            key: None,
        };
        assert_eq!(spec.check(), Ok(()));
        let with = |change: fn(&mut EtcdSpec)| {
            let mut spec = spec.clone();
            change(&mut spec);
            spec.check().unwrap_err()
        };
        let cases = [
            (with(|spec| spec.endpoints.clear()), "names 0 members"),
            (
                with(|spec| spec.endpoints[0] = "10.0.0.1:2379".to_owned()),
                "`10.0.0.1:2379` is no member",
            ),
            (
                with(|spec| spec.endpoints[0] = "http://a:b".to_owned()),
                "`http://a:b` is no member",
            ),
            (
                with(|spec| spec.endpoints[0] = "https://a:1".to_owned()),
                "https:// needs it",
            ),
            (
                with(|spec| spec.authority = Some("ca.pem".into())),
                "http:// has none",
            ),
            (with(|spec| spec.prefix = "/".to_owned()), "`/` is no prefix"),
            (with(|spec| spec.prefix = "a".to_owned()), "`a` is no prefix"),
            (with(|spec| spec.prefix = "/a/".to_owned()), "`/a/` is no prefix"),
            (with(|spec| spec.key = Some("k".into())), "belong together"),
            (with(|spec| spec.lease_s = 1), "`lease_s` is 1, not 2 to 60"),
        ];
        for (said, expected) in cases {
            assert!(said.contains(expected), "{said}");
        }
    }
}
