//! The HTTP server: one address, GET, short answers.
//!
//! In: requests. Out: what [`Health`] says. Never: more than a few requests at once, or one that keeps a connection for
//! nothing: anybody on the network may be able to ask.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use margay_maps::user::Maps;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::info;

use super::metrics::Counters;
use super::{Answer, Health};
use crate::datapath::pins::PinDir;
use crate::problem::Problem;

/// How many connections are served at once; others wait.
const CONNECTIONS: usize = 32;
/// How long a connection may take for a request, its first or another one. Prometheus keeps connections, and asks twice
/// a minute or so.
const IDLE: Duration = Duration::from_secs(60);
/// How long to wait before trying a taken address again.
const RETRY: Duration = Duration::from_secs(2);

/// Serves for ever.
pub(super) async fn run(address: SocketAddr, health: Health, pins: PinDir) {
    let pins = Arc::new(pins);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                health.set_problem(Some(not_bound(address, &error)));
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        health.set_problem(None);
        info!(%address, "health and metrics");
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            // Out of descriptors, or a connection that is gone again: not the listener's fault.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let (health, pins) = (health.clone(), Arc::clone(&pins));
            tokio::spawn(async move {
                serve(stream, health, pins).await;
                drop(place);
            });
        }
    }
}

fn not_bound(address: SocketAddr, error: &std::io::Error) -> Problem {
    let remedy = "give another address with --health-addr, or stop who has this one; it is tried again";
    Problem::new(format!("address {address}"), format!("health and metrics cannot be served there: {error}"), remedy)
}

async fn serve(stream: TcpStream, health: Health, pins: Arc<PinDir>) {
    let service = service_fn(move |request| {
        let (health, pins) = (health.clone(), Arc::clone(&pins));
        async move { Ok::<_, Infallible>(respond(&request, &health, &pins).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE);
    // Whoever asked has gone, or was too slow: nobody to tell.
    drop(server.serve_connection(TokioIo::new(stream), service).await);
}

async fn respond(request: &Request<Incoming>, health: &Health, pins: &Arc<PinDir>) -> Response<Full<Bytes>> {
    let mut content = "text/plain; charset=utf-8";
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let answer = match request.uri().path() {
        _ if !get => Answer { status: 405, body: "GET\n".to_owned() },
        "/healthz" => health.alive(Instant::now()),
        "/readyz" => health.ready(),
        "/metrics" => {
            content = "text/plain; version=0.0.4; charset=utf-8";
            let counters = counters(Arc::clone(pins)).await;
            health.metrics(counters.as_ref().map_err(Clone::clone), SystemTime::now())
        }
        _ => Answer { status: 404, body: "/healthz, /readyz, /metrics\n".to_owned() },
    };
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content));
    if !get {
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET"));
    }
    response
}

/// The counters as they are now. Reading them are system calls, many for a full map: not among the tasks that must not wait.
async fn counters(pins: Arc<PinDir>) -> Result<Counters, String> {
    let read = move || {
        let dir = pins.dir();
        let maps = Maps::open(dir).map_err(|error| format!("opening the maps in {}: {error}", dir.display()))?;
        Counters::read(&maps).map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
}
