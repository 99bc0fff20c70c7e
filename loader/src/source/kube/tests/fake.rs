//! A fake API server: HTTP/1.1 on a loopback port, and each request answered as the test says. It holds no objects and knows no
//! Kubernetes; `tests/api_source.rs` runs against a real one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use kube::{Client, Config};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::connect::Patience;
use super::super::failure::{Failure, Reason};
use super::super::kept::Kept;
use super::super::kind::Kind;
use super::super::{KubeSource, Source as _};

/// What to answer.
pub(super) enum Reply {
    /// 200, these lines, and then those that come out of the channel; the end of it ends the answer.
    Lines(Vec<String>, mpsc::UnboundedReceiver<String>),
    /// A status and a body.
    Status(u16, String),
    /// Nothing at all, for ever.
    Silence,
    /// The end of the connection.
    HangUp,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// After the start of the server.
    pub at: Duration,
    /// Path and query.
    pub what: String,
}

type Answer = dyn Fn(&str) -> Reply + Send + Sync;

/// The server. It and its connections end with it.
pub(super) struct Fake {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<BTreeMap<Kind, Arc<Answer>>>>,
    _serving: JoinSet<()>,
}

// === impl Reply ===

impl Reply {
    /// 200, these lines, and nothing more, but not the end either.
    pub(super) fn stay(lines: Vec<String>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Never dropped: the answer never ends.
        std::mem::forget(sender);
        Self::Lines(lines, receiver)
    }

    /// 200, these lines, and the end.
    pub(super) fn end(lines: Vec<String>) -> Self {
        Self::Lines(lines, mpsc::unbounded_channel().1)
    }

    /// An error as the API server words it.
    pub(super) fn error(code: u16, message: &str) -> Self {
        Self::Status(code, error(code, message))
    }
}

/// A `Status` of failure.
pub(super) fn error(code: u16, message: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","code":{code}}}"#
    )
}

/// The end of a streamed list.
pub(super) fn listed(version: u32) -> String {
    bookmark(version, r#","annotations":{"k8s.io/initial-events-end":"true"}"#)
}

/// A bookmark.
pub(super) fn bookmark(version: u32, more: &str) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"kind":"X","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"{more}}}}}}}"#
    )
}

/// An event about a node.
pub(super) fn node(event: &str, name: &str, version: u32) -> String {
    format!(
        r#"{{"type":"{event}","object":{{"kind":"Node","apiVersion":"v1","metadata":{{"name":"{name}","resourceVersion":"{version}"}}}}}}"#
    )
}

/// An event about a BlockAffinity.
pub(super) fn block(event: &str, name: &str, version: u32) -> String {
    format!(
        r#"{{"type":"{event}","object":{{"kind":"BlockAffinity","apiVersion":"crd.projectcalico.org/v1","metadata":{{"name":"{name}","resourceVersion":"{version}"}},"spec":{{"cidr":"10.0.0.0/26","node":"a","state":"confirmed","deleted":"false"}}}}}}"#
    )
}

// === impl Fake ===

impl Fake {
    /// A server on which all kinds are there, and empty.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let answers = Arc::<Mutex<BTreeMap<Kind, Arc<Answer>>>>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&asked), Arc::clone(&answers)));
        Self { address, asked, answers, _serving: serving }
    }

    /// How requests about a kind are answered from now on.
    pub(super) fn answer(&self, kind: Kind, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> &Self {
        self.answers.lock().unwrap().insert(kind, Arc::new(answer));
        self
    }

    /// Answers requests about a kind with these, one after the other, and then with silence.
    pub(super) fn script(&self, kind: Kind, replies: impl IntoIterator<Item = Reply>) -> &Self {
        let replies = Mutex::new(replies.into_iter().collect::<std::collections::VecDeque<_>>());
        self.answer(kind, move |_| replies.lock().unwrap().pop_front().unwrap_or(Reply::Silence))
    }

    /// The requests about a kind so far.
    pub(super) fn asked(&self, kind: Kind) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| kind_of(&asked.what) == Some(kind)).cloned().collect()
    }

    /// A source that watches this server.
    pub(super) fn source(&self) -> KubeSource {
        source(self.address, None)
    }
}

/// Patient enough for this machine, and not for long.
pub(super) const PATIENCE: Patience =
    Patience { answer: Duration::from_secs(2), list: Duration::from_secs(5), silence: Duration::from_millis(1500) };

/// A source that watches the server at an address.
pub(super) fn source(address: SocketAddr, kept: Option<Kept>) -> KubeSource {
    let connect = move || {
        async move {
            let mut config = Config::new(format!("http://{address}").parse().unwrap());
            config.default_retry = false;
            Client::try_from(config).map_err(|error| Failure::new(Reason::Setup, error.to_string()))
        }
        .boxed()
    };
    KubeSource::with("the fake".to_owned(), "a", Arc::new(connect), PATIENCE, kept)
}

/// Reads until something holds; `what` is for the failure.
pub(super) async fn until(source: &mut KubeSource, what: &str, holds: impl Fn(&KubeSource) -> bool) {
    let start = Instant::now();
    loop {
        source.read();
        if holds(source) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {:?} {:?}", source.objects(), source.problems());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn kind_of(what: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| what.starts_with(&kind.path()))
}

async fn serve(listener: TcpListener, asked: Arc<Mutex<Vec<Asked>>>, answers: Arc<Mutex<BTreeMap<Kind, Arc<Answer>>>>) {
    let start = Instant::now();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
        connections.spawn(async move {
            let mut stream = BufReader::new(stream);
            let what = head(&mut stream).await;
            asked.lock().unwrap().push(Asked { at: start.elapsed(), what: what.clone() });
            let answer = kind_of(&what).and_then(|kind| answers.lock().unwrap().get(&kind).cloned());
            let reply = answer.map_or_else(|| Reply::stay(vec![listed(1)]), |answer| answer(&what));
            send(stream.into_inner(), reply).await;
        });
    }
}

/// Path and query of a request without a body.
async fn head(stream: &mut BufReader<TcpStream>) -> String {
    let mut first = String::new();
    stream.read_line(&mut first).await.unwrap();
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await.unwrap() == 0 {
            break;
        }
    }
    first.split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn send(mut stream: TcpStream, reply: Reply) {
    let head = |status| format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
    match reply {
        Reply::Silence => std::future::pending().await,
        Reply::HangUp => {}
        // The client may have gone.
        Reply::Status(status, body) => drop(stream.write_all((head(status) + &body).as_bytes()).await),
        Reply::Lines(lines, mut more) => {
            let lines: String = lines.into_iter().map(|line| line + "\n").collect();
            drop(stream.write_all((head(200) + &lines).as_bytes()).await);
            while let Some(line) = more.recv().await {
                drop(stream.write_all((line + "\n").as_bytes()).await);
            }
        }
    }
}
