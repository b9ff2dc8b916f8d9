//! Where coordinators are: several addresses, of which one leads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::time::{Instant, sleep};
use transhume_trust::{Security, Trust};

use super::error::ClientError;
use super::transport::{Answer, Transport, TransportError};
use crate::{NO_LEADER, NOT_LEADER, Problem};

/// Of several coordinators none leads for some seconds after one died: they are asked again.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(10);
const LEADER_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Clone)]
struct Place {
    transport: Transport,
    /// As people write it.
    address: String,
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    all: Arc<[Place]>,
    /// Who answered last.
    preferred: Arc<AtomicUsize>,
    trust: Option<Arc<Trust>>,
    pub(super) address: String,
}

/// One address of a list.
fn place(address: &str, trust: Option<&Arc<Trust>>) -> Result<Place, ClientError> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok(socket(Path::new(path)));
    }
    let given = || address.to_owned();
    let (security, at) = if let Some(at) = address.strip_prefix("http://") {
        (Security::Insecure, at)
    } else if let Some(at) = address.strip_prefix("https://") {
        let trust = trust.ok_or_else(|| ClientError::NoCertificate { given: given() })?;
        (Security::Mutual(trust.clone()), at)
    } else {
        return Err(ClientError::Address { given: given() });
    };
    let at = at.trim_end_matches('/').to_owned();
    let port = at.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(_))) || at.contains('/') {
        return Err(ClientError::Address { given: given() });
    }
    Ok(Place {
        transport: Transport::Tcp(at, security),
        address: address.trim_end_matches('/').to_owned(),
    })
}

fn socket(path: &Path) -> Place {
    Place {
        transport: Transport::Unix(path.to_owned()),
        address: format!("unix:{}", path.display()),
    }
}

/// What one place said.
enum Said {
    Answer(Answer),
    /// Another may say something else.
    Elsewhere(ClientError),
}

impl Places {
    pub(super) fn new(addresses: &str, trust: Option<Arc<Trust>>) -> Result<Self, ClientError> {
        let all = addresses
            .split(',')
            .map(|address| place(address.trim(), trust.as_ref()));
        Ok(Self::of(all.collect::<Result<_, _>>()?, trust))
    }

    pub(super) fn sockets(paths: &[PathBuf]) -> Self {
        Self::of(paths.iter().map(|path| socket(path)).collect(), None)
    }

    fn of(all: Vec<Place>, trust: Option<Arc<Trust>>) -> Self {
        let addresses: Vec<&str> = all.iter().map(|place| place.address.as_str()).collect();
        Self {
            address: addresses.join(", "),
            all: all.into(),
            preferred: Arc::default(),
            trust,
        }
    }

    /// The head of an answer that is a success, of whoever leads. Only what nobody has worked on is
    /// asked of another.
    pub(super) async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Answer, ClientError> {
        let until = Instant::now() + LEADER_WAIT_MAX;
        loop {
            let mut said = None;
            for _ in 0..self.all.len() {
                let at = self.preferred.load(Ordering::Relaxed) % self.all.len();
                match self.ask_one(&self.all[at], method, path, body).await? {
                    Said::Answer(answer) => return Ok(answer),
                    Said::Elsewhere(error) => {
                        // That one follows somebody says less than that nobody answers.
                        let follows = |error: &ClientError| matches!(error, ClientError::Problem(problem) if problem.code == NOT_LEADER);
                        if said.as_ref().is_none_or(follows) {
                            said = Some(error);
                        }
                        self.preferred.store((at + 1) % self.all.len(), Ordering::Relaxed);
                    }
                }
            }
            let error = said.expect("there is at least one place");
            if self.all.len() == 1 || Instant::now() >= until {
                return Err(error);
            }
            sleep(LEADER_AGAIN).await;
        }
    }

    async fn ask_one(
        &self,
        place: &Place,
        method: &Method,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Said, ClientError> {
        let first = match self.say(place, method, path, body).await? {
            Ok(answer) => answer,
            Err(absent) => return Ok(Said::Elsewhere(absent)),
        };
        if first.status() != StatusCode::TEMPORARY_REDIRECT {
            return self.taken(place, first).await;
        }
        // Where the leader is, if it can be asked there; its own answer then stands.
        let leader = first.place().and_then(base).and_then(|base| {
            let known = self.all.iter().find(|place| place.address == base);
            known
                .cloned()
                .or_else(|| self::place(&base, self.trust.as_ref()).ok())
        });
        let Some(leader) = leader else {
            return self.taken(place, first).await;
        };
        match self.say(&leader, method, path, body).await? {
            Ok(answer) => self.taken(&leader, answer).await,
            Err(absent) => Ok(Said::Elsewhere(absent)),
        }
    }

    /// The inner error where nobody is there.
    async fn say(
        &self,
        place: &Place,
        method: &Method,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Result<Answer, ClientError>, ClientError> {
        let body = body.map(<[u8]>::to_vec);
        match place.transport.ask(method.clone(), path, body).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(absent @ TransportError::Absent(_)) => Ok(Err(unreachable(place, absent))),
            Err(error) => Err(unreachable(place, error)),
        }
    }

    async fn taken(&self, place: &Place, mut answer: Answer) -> Result<Said, ClientError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(Said::Answer(answer));
        }
        let body = answer.bytes().await.map_err(|error| unreachable(place, error))?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if problem.code == NO_LEADER || problem.code == NOT_LEADER => {
                Ok(Said::Elsewhere(ClientError::Problem(problem)))
            }
            Ok(problem) => Err(ClientError::Problem(problem)),
            Err(_) => Err(ClientError::Status {
                address: place.address.clone(),
                status: status.as_u16(),
            }),
        }
    }
}

/// Scheme, host and port of an absolute place.
fn base(place: &str) -> Option<String> {
    let host = place.find("://")? + "://".len();
    let end = place[host..].find('/').map_or(place.len(), |at| host + at);
    Some(place[..end].to_owned())
}

fn unreachable(place: &Place, source: TransportError) -> ClientError {
    ClientError::Unreachable {
        address: place.address.clone(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_cut_before_its_path() {
        assert_eq!(
            base("https://10.0.0.1:7400/v1/x?after=7").as_deref(),
            Some("https://10.0.0.1:7400")
        );
        assert_eq!(base("http://c2:7400").as_deref(), Some("http://c2:7400"));
        assert_eq!(base("/v1/x"), None);
    }

    #[test]
    fn each_address_of_a_list_is_checked_and_named() {
        let places = Places::new("unix:/run/a.sock, http://10.0.0.2:7400/", None).unwrap();
        assert_eq!(places.address, "unix:/run/a.sock, http://10.0.0.2:7400");
        let wrong = Places::new("unix:/run/a.sock,10.0.0.2", None).unwrap_err();
        assert!(wrong.to_string().contains("`10.0.0.2`"), "{wrong}");
    }
}
