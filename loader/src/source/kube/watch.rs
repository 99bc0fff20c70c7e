//! The watch of one kind: asks the API server, and hands on what it says, for ever.
//!
//! In: a [`Cursor`] that says what to ask, and the server's bytes. Out: lists and changes in the [`Inbox`], and how the watch is. Never:
//! a decision about when to ask again (the cursor's), or an object that the server did not send.
//!
//! kube's own watcher is not used: it hides bookmarks, by which we know that the server still speaks, lists from any
//! replica's cache however old, and ends its stream of news at the first object that it cannot read.

use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::{AsyncBufReadExt as _, future::BoxFuture};
use kube::Client;
use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::connect::Patience;
use super::cursor::{Ask, Cursor, Heard};
use super::failure::{Failure, Reason};
use super::inbox::Inbox;
use super::kind::{Change, Kind, Page};
use crate::object::ObjectName;

/// Makes a client.
pub(super) type Connect = dyn Fn() -> BoxFuture<'static, Result<Client, Failure>> + Send + Sync;

/// How many objects a page holds: as many as kubectl asks for.
const PAGE: u32 = 500;
/// After how long the server is to end a watch by itself, in seconds: so long, and by chance up to twice that, as all
/// Kubernetes clients do it, so that watches spread over the servers again.
const WATCH_SECS: u32 = 300;

/// When one watch has found the server, the others follow after about this time.
const TOGETHER: Duration = Duration::from_millis(500);

/// How a request came to its end.
enum End {
    /// What was asked for is there; go on with the changes.
    Asked,
    /// The watch is over, as watches are.
    Closed,
    /// Nothing was heard for a while, which may be because nothing happened.
    Quiet(Before),
}

/// What was heard of a watch before it went quiet.
enum Before {
    Something,
    Nothing,
}

/// One kind's watch.
pub(super) struct Watch {
    kind: Kind,
    connect: Arc<Connect>,
    patience: Patience,
    inbox: Arc<Inbox>,
    cursor: Cursor,
    client: Option<Client>,
    /// Since when the server has been answering the request that is under way, if that is a watch.
    answering: Option<Instant>,
    /// Whether objects of the kind are known, from the server or from an earlier run.
    some_known: bool,
    /// The node that we are on.
    node: Box<str>,
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(
        kind: Kind,
        connect: Arc<Connect>,
        patience: Patience,
        inbox: Arc<Inbox>,
        some_known: bool,
    ) -> Self {
        Self {
            kind,
            connect,
            patience,
            inbox,
            cursor: Cursor::new(),
            client: None,
            answering: None,
            some_known,
            node: Box::default(),
        }
    }

    /// On this node.
    pub(super) fn on(self, node: &str) -> Self {
        Self { node: node.into(), ..self }
    }

    /// Watches until the task is ended.
    pub(super) async fn run(mut self) {
        loop {
            let pause = self.once().await;
            // Whoever finds that the server is back tells the others; not all of them to come in the same moment.
            if timeout(pause, self.inbox.recovery()).await.is_ok() {
                sleep(pause.min(TOGETHER.mul_f64(0.5 + chance()))).await;
            }
        }
    }

    /// One request, to its end. How long to wait before the next.
    async fn once(&mut self) -> Duration {
        self.answering = None;
        let end = self.request().await;
        // A watch that was refused has not lived, however long the refusal took.
        let lived = self.answering.map_or(Duration::ZERO, |since| since.elapsed());
        match end {
            Ok(End::Asked) => Duration::ZERO,
            Ok(End::Closed) => self.cursor.ended(lived, chance()),
            Ok(End::Quiet(before)) => {
                // Perhaps it is the connection.
                self.client = None;
                match before {
                    Before::Something => self.cursor.ended(lived, chance()),
                    Before::Nothing => self.cursor.silent(lived, chance()),
                }
            }
            Err(failure) => self.failed(failure, lived),
        }
    }

    fn failed(&mut self, mut failure: Failure, lived: Duration) -> Duration {
        if failure.reason == Reason::Absent && !self.kind.is_optional() {
            failure.reason = Reason::Server;
        }
        let asked = self.cursor.ask().clone();
        let pause = self.cursor.failed(failure.reason, lived, chance());
        debug!(kind = self.kind.resource(), ?asked, ?failure, ?pause, "watch failed");
        match failure.reason {
            Reason::Absent => self.absent(),
            // Asked in another way at once: nothing is wrong.
            _ if pause.is_zero() => {}
            _ => {
                // With a new connection, perhaps to another server, and with the credentials as they are then.
                self.client = None;
                self.inbox.failed(self.kind, failure, SystemTime::now());
            }
        }
        pause
    }

    /// The server does not know the kind.
    fn absent(&mut self) {
        if self.cursor.is_absent(self.some_known) {
            self.complete(BTreeMap::new());
        }
    }

    /// The server has said something. While a list is not complete, that does not make what is in force any newer.
    fn answered(&self) {
        if matches!(self.cursor.ask(), Ask::Changes { .. }) {
            self.inbox.answered(self.kind, SystemTime::now());
        }
    }

    fn complete(&mut self, objects: BTreeMap<ObjectName, Change>) {
        self.some_known = !objects.is_empty();
        self.inbox.complete(self.kind, objects, SystemTime::now());
    }

    async fn request(&mut self) -> Result<End, Failure> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = in_time(self.patience.answer, (self.connect)()).await??;
                self.client.insert(client).clone()
            }
        };
        match self.cursor.ask().clone() {
            Ask::Pages => self.pages(&client).await,
            Ask::Stream { no_older_than } => {
                self.stream(&client, no_older_than.as_deref().unwrap_or_default(), true).await
            }
            Ask::Changes { since } => self.stream(&client, &since, false).await,
            Ask::Version { .. } => self.version(&client).await,
        }
    }

    /// Asks for a watch, and follows it.
    async fn stream(&mut self, client: &Client, version: &str, send_initial_events: bool) -> Result<End, Failure> {
        let params = WatchParams {
            field_selector: self.kind.field_selector().map(str::to_owned),
            timeout: Some(watch_secs(chance())),
            bookmarks: true,
            send_initial_events,
            ..WatchParams::default()
        };
        let request = Request::new(self.kind.path()).watch(&params, version).map_err(malformed)?;
        let answer = in_time(self.patience.answer, client.request_stream(request)).await?;
        let mut lines = pin!(answer.map_err(|error| Failure::of(&error))?);
        self.answering = Some(Instant::now());
        self.answered();
        let mut list = BTreeMap::new();
        let mut line = Vec::new();
        let mut before = Before::Nothing;
        loop {
            line.clear();
            let listing = matches!(self.cursor.ask(), Ask::Stream { .. });
            let patience = if listing { self.patience.list } else { self.patience.silence };
            match timeout(patience, lines.read_until(b'\n', &mut line)).await {
                Ok(Ok(0)) if listing => return Err(Failure::new(Reason::Garbled, "the list broke off")),
                Ok(Ok(0)) => return Ok(End::Closed),
                Ok(Ok(_)) => {
                    self.line(&line, &mut list)?;
                    before = Before::Something;
                }
                Ok(Err(error)) => return Err(broken(&error)),
                Err(_elapsed) if listing => return Err(silent(patience)),
                Err(_elapsed) => return Ok(End::Quiet(before)),
            }
        }
    }

    /// Takes in a line of a watch.
    fn line(&mut self, line: &[u8], list: &mut BTreeMap<ObjectName, Change>) -> Result<(), Failure> {
        // The last line of a connection that broke.
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        let event = self.kind.event(line).map_err(|error| Failure::new(Reason::Garbled, error))?;
        match self.cursor.heard(event) {
            Heard::Nothing => {}
            Heard::Part(name, Change::Deleted) => drop(list.remove(&name)),
            Heard::Part(name, change) => drop(list.insert(name, change.seen_from(&self.node))),
            Heard::Complete => self.complete(std::mem::take(list)),
            Heard::News(name, change) => {
                self.some_known = true;
                self.inbox.change(name, change.seen_from(&self.node));
            }
            Heard::Over(failure) => return Err(failure),
        }
        self.answered();
        Ok(())
    }

    /// Asks for a list, page by page.
    async fn pages(&mut self, client: &Client) -> Result<End, Failure> {
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = self.kind.field_selector().map(str::to_owned);
        let mut list = BTreeMap::new();
        loop {
            let page = self.page(client, &params).await?;
            list.extend(page.objects.into_iter().map(|(name, change)| (name, change.seen_from(&self.node))));
            params.continue_token = page.more;
            if params.continue_token.is_none() {
                self.complete(list);
                self.cursor.listed(page.version);
                self.answered();
                return Ok(End::Asked);
            }
        }
    }

    /// Asks at which version the server is.
    async fn version(&mut self, client: &Client) -> Result<End, Failure> {
        let page = self.page(client, &ListParams::default().limit(1)).await?;
        self.cursor.checked(&page.version)?;
        self.answered();
        Ok(End::Asked)
    }

    async fn page(&self, client: &Client, params: &ListParams) -> Result<Page, Failure> {
        let request = Request::new(self.kind.path()).list(params).map_err(malformed)?;
        let text = in_time(self.patience.list, client.request_text(request)).await?;
        let text = text.map_err(|error| Failure::of(&error))?;
        self.kind.page(&text).map_err(|error| Failure::new(Reason::Garbled, error))
    }
}

async fn in_time<T>(patience: Duration, answer: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(patience, answer).await.map_err(|_elapsed| silent(patience))
}

fn silent(patience: Duration) -> Failure {
    Failure::new(Reason::Silent, format!("no answer within {} s", patience.as_secs_f32()))
}

fn broken(error: &std::io::Error) -> Failure {
    let reason = if error.kind() == std::io::ErrorKind::TimedOut { Reason::Silent } else { Reason::Unreachable };
    Failure::new(reason, format!("the connection broke: {error}"))
}

fn malformed(error: kube::core::request::Error) -> Failure {
    Failure::new(Reason::Setup, error.to_string())
}

fn watch_secs(chance: f64) -> u32 {
    // A number between 300 and 600.
    WATCH_SECS + (f64::from(WATCH_SECS) * chance) as u32
}

/// A number in 0..1, different on each node and each time: the standard library seeds its hashers by chance.
fn chance() -> f64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    f64::from(hasher.finish() as u32) / (f64::from(u32::MAX) + 1.0)
}
