//! The address that Prometheus asks. Whatever a client does, its connection is short, and few are
//! there at once.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::scrape;
use crate::agent::Agent;
use crate::limits::{
    METRICS_ACCEPT_AGAIN, METRICS_CONNECTIONS_MAX, METRICS_CONVERSATION_MAX, METRICS_HEAD_BYTES_MAX,
    METRICS_HEADERS_MAX,
};

const PATH: &str = "/metrics";

/// Serves until it is dropped, and its connections with it.
pub(crate) async fn serve(listener: TcpListener, agent: Agent) {
    let places = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await;
        let place = place.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let agent = agent.clone();
                connections.spawn(async move {
                    let _place = place;
                    let conversation = converse(stream, agent);
                    match timeout(METRICS_CONVERSATION_MAX, conversation).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%peer, "a scrape ended: {error}"),
                        Err(_) => debug!(%peer, "a scrape took too long"),
                    }
                });
            }
            Err(error) => {
                warn!("the address for metrics cannot accept a connection: {error}");
                sleep(METRICS_ACCEPT_AGAIN).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, agent: Agent) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), &agent);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(METRICS_HEAD_BYTES_MAX)
        .max_headers(METRICS_HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(method: &Method, path: &str, agent: &Agent) -> Response<String> {
    if path != PATH {
        let text = format!("there is nothing here but {PATH}\n");
        return response(StatusCode::NOT_FOUND, text);
    }
    if ![Method::GET, Method::HEAD].contains(method) {
        let text = format!("{PATH} can only be read\n");
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, text);
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    response(StatusCode::OK, scrape(agent).text())
}

fn response(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(transhume_metrics::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
