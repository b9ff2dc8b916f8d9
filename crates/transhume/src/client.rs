//! The coordinator's API, from the user's side.

use std::path::PathBuf;
use std::time::Duration;

use futures::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use transhume_coordinator::api::Problem;
use transhume_lab::LabName;
use transhume_protocol::event::Event;

use crate::failure::{Failure, Kind, chain};

/// Longest wait for an answer that is not a stream.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest line of the event stream.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A coordinator.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    shown: String,
}

impl Client {
    /// `http://HOST:PORT`, `unix:PATH`, or the lab's where absent.
    pub fn new(api: Option<&str>) -> Result<Self, Failure> {
        let lab = transhume_lab::Layout::new(&LabName::default()).api_socket();
        let shown = api.map_or_else(|| format!("unix:{}", lab.display()), str::to_owned);
        let builder = reqwest::Client::builder();
        let (builder, base) = match shown.strip_prefix("unix:") {
            Some(path) => (
                builder.unix_socket(PathBuf::from(path)),
                "http://coordinator".to_owned(),
            ),
            None if shown.starts_with("http://") => (builder, shown.trim_end_matches('/').to_owned()),
            None => {
                let message = format!("`{shown}` is not the address of a coordinator");
                return Err(Failure::new(
                    Kind::Refused,
                    message,
                    "write http://HOST:PORT or unix:PATH",
                ));
            }
        };
        let http = builder.build().map_err(|error| Failure::of(&error))?;
        Ok(Self { http, base, shown })
    }

    /// The lab's.
    pub fn of_lab() -> Result<Self, Failure> {
        Self::new(None)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let message = format!("no coordinator answers at {}: {}", self.shown, chain(error));
        Failure::new(
            Kind::Unreachable,
            message,
            "is it running? `transhume lab up` raises one; --api names another",
        )
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        Err(match response.json::<Problem>().await {
            Ok(problem) => problem.into(),
            Err(_) => Failure::other(format!("the coordinator answered {status}")),
        })
    }

    async fn parsed<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, Failure> {
        let response = self.answer(request.timeout(ANSWER_MAX)).await?;
        response.json().await.map_err(|error| self.unreachable(&error))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parsed(self.http.get(format!("{}{path}", self.base))).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.parsed(self.http.post(format!("{}{path}", self.base)).json(body))
            .await
    }

    /// The events of a move after the first `after`, until it is over.
    pub async fn events(
        &self,
        migration: u64,
        after: u64,
    ) -> Result<impl Stream<Item = Result<Event, Failure>> + use<>, Failure> {
        let path = format!("{}/v1/migrations/{migration}/events?after={after}", self.base);
        let mut bytes = self.answer(self.http.get(path)).await?.bytes_stream();
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let client = self.clone();
        tokio::spawn(async move {
            let mut lines = Vec::new();
            while let Some(chunk) = bytes.next().await {
                match chunk {
                    Ok(chunk) => lines.extend_from_slice(&chunk),
                    Err(error) => {
                        // A listener that is gone needs no news.
                        let _ = sender.send(Err(client.unreachable(&error))).await;
                        return;
                    }
                }
                while let Some(end) = lines.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = lines.drain(..=end).collect();
                    if let Some(event) = line
                        .strip_prefix(b"data: ")
                        .and_then(|data| serde_json::from_slice(data).ok())
                        && sender.send(Ok(event)).await.is_err()
                    {
                        return;
                    }
                }
                if lines.len() > LINE_BYTES_MAX {
                    let _ = sender
                        .send(Err(Failure::other("the coordinator sent a line without an end")))
                        .await;
                    return;
                }
            }
        });
        Ok(futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|event| (event, receiver))
        }))
    }
}
