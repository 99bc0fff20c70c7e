//! The agent's side of the socket: addresses given and taken back, attachments remembered, and answers that are given
//! only when what they say is in force.
//!
//! In: requests of plugins. Out: records, and passes asked of the agent's loop. Never: a map or an interface; those are the
//! pass's.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, oneshot, watch},
};
use tracing::{debug, info, warn};

use super::{
    calls::{Call, Calls},
    protocol::{Attached, Prepare, Prepared, Reply, Request},
    records::{Record, Records},
    spec::{AttachmentId, CniError, code},
};
use crate::{
    object::{PodName, PodWishes},
    state::{StateDir, StateError},
};

/// A pod's annotations, those at least that ask for addresses or a MAC.
pub type Annotations = BTreeMap<String, String>;

/// What the source says that this node's pods ask for.
pub type Wishes = BTreeMap<PodName, PodWishes>;

/// Who gives addresses to pods.
pub trait AddressManager: Send + Sync {
    /// Gives the pod addresses, and says which MAC its annotation asks for. A repeated call for one attachment gives the
    /// same. `known`: the pod's annotations, where the agent has seen this very pod already.
    fn assign<'a>(
        &'a self,
        request: &'a Prepare,
        known: Option<Annotations>,
    ) -> BoxFuture<'a, Result<Assigned, CniError>>;
    /// Takes back what the attachment had; nothing is no error.
    fn release<'a>(&'a self, attachment: &'a AttachmentId) -> BoxFuture<'a, Result<(), CniError>>;
}

/// What an address manager gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// The MAC that the pod's annotation asks for.
    pub mac: Option<String>,
}

/// Stands in where nobody gives addresses: the agent's source is a directory, and directories cannot be written to.
#[derive(Clone, Copy, Debug)]
pub struct NoAddresses;

impl AddressManager for NoAddresses {
    fn assign<'a>(
        &'a self,
        _request: &'a Prepare,
        _known: Option<Annotations>,
    ) -> BoxFuture<'a, Result<Assigned, CniError>> {
        let details = "this agent reads manifests from a directory and gives no addresses: name an address manager in \
                       the network configuration, such as \"ipam\": {\"type\": \"host-local\", …}";
        Box::pin(async move { Err(CniError::new(code::NO_ADDRESS, "giving the pod an address", details)) })
    }

    fn release<'a>(&'a self, _attachment: &'a AttachmentId) -> BoxFuture<'a, Result<(), CniError>> {
        Box::pin(async { Ok(()) })
    }
}

/// A pass that somebody waits for.
#[derive(Debug)]
pub struct PassRequest {
    /// The interface that must be in force afterwards, if any.
    pub interface: Option<String>,
    /// Whether that interface must have links by then, and no filters got in haste, where the kernel has links.
    pub settled: bool,
    /// Told when the pass is over: what keeps the interface from being in force, if anything does.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// What the agent's loop tells the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether a pass has been completed.
    pub ready: bool,
    /// The overlay's MTU, in bytes; what a pod's interface gets.
    pub mtu: u32,
}

/// The records, and how often they have been changed.
#[derive(Clone, Default)]
struct Versioned {
    records: Records,
    version: u64,
}

/// Shared by all connections.
pub struct Server {
    records: Mutex<Versioned>,
    /// Which of the records' versions is on disk. Held while they are written.
    kept: tokio::sync::Mutex<u64>,
    calls: Calls,
    wishes: Mutex<Wishes>,
    addresses: Box<dyn AddressManager>,
    state: StateDir,
    passes: mpsc::Sender<PassRequest>,
    readiness: watch::Receiver<Readiness>,
}

/// The longest that a plugin's call waits for a pass. One takes milliseconds; on a machine without time for it, longer.
const PASS_PATIENCE: Duration = Duration::from_secs(5);

/// How often a plugin that waits is told that its answer is being worked on.
pub const HEARTBEAT: Duration = Duration::from_millis(500);

// === impl Server ===

impl Server {
    /// A server over what an earlier agent remembered, and the loop's end of it.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn new(
        state: StateDir,
        addresses: Box<dyn AddressManager>,
        readiness: watch::Receiver<Readiness>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<PassRequest>), StateError> {
        let records = Mutex::new(Versioned { records: state.attachments()?.unwrap_or_default(), version: 0 });
        let (passes, requests) = mpsc::channel(64);
        Ok((
            Arc::new(Self {
                records,
                kept: tokio::sync::Mutex::new(0),
                calls: Calls::default(),
                wishes: Mutex::default(),
                addresses,
                state,
                passes,
                readiness,
            }),
            requests,
        ))
    }

    /// The attachments, for the model.
    pub fn records(&self) -> Records {
        self.lock().records.clone()
    }

    /// Takes note of what the source says of this node's pods.
    pub fn know(&self, wishes: Wishes) {
        *self.wishes.lock().unwrap_or_else(PoisonError::into_inner) = wishes;
    }

    /// What this very pod's annotations ask for; `None` if the source has not told of it yet.
    fn wishes_of(&self, request: &Prepare) -> Option<Annotations> {
        let uid = request.uid.as_deref()?;
        let wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        wishes.get(&request.pod).filter(|known| *known.uid == *uid).map(|known| known.annotations.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Versioned> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the records in memory alone; the next [`Self::change`] keeps them.
    fn note<T>(&self, change: impl FnOnce(&mut Records) -> T) -> (T, u64) {
        let mut records = self.lock();
        records.version += 1;
        (change(&mut records.records), records.version)
    }

    /// Changes the records, and keeps them before the caller hears of it. Who comes while they are being written shares the
    /// next write with all others who do.
    async fn change<T>(&self, change: impl FnOnce(&mut Records) -> T) -> Result<T, CniError> {
        let (result, needed) = self.note(change);
        let mut kept = self.kept.lock().await;
        if *kept < needed {
            let Versioned { records, version } = self.lock().clone();
            let written = self.state.write_attachments(&records);
            written.map_err(|e| CniError::new(code::TRY_AGAIN, "remembering the attachment", e.to_string()))?;
            *kept = version;
        }
        Ok(result)
    }

    /// Listens on the socket and serves until the runtime ends.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(self: &Arc<Self>, socket: &Path) -> io::Result<()> {
        // One that an earlier agent left. The lock on the state directory says that none runs now.
        match fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        let server = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _peer)) => drop(tokio::spawn(Arc::clone(&server).serve(stream))),
                    Err(e) => {
                        warn!("accepting a plugin's connection: {e}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        Ok(())
    }

    /// One plugin. Also what it asked before it hung up is done, in the order in which it asked.
    async fn serve(self: Arc<Self>, stream: UnixStream) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut call = None;
        while let Ok(Some(line)) = lines.next_line().await {
            let reply = match serde_json::from_str(&line) {
                Ok(request) => {
                    self.answer_meanwhile(request, &mut call, &mut write).await.unwrap_or_else(Reply::Failed)
                }
                Err(e) => Reply::Failed(CniError::new(code::DECODING, "understanding the plugin", e.to_string())),
            };
            say(&mut write, &reply).await;
        }
    }

    /// Answers, and says every now and then that the answer is being worked on.
    async fn answer_meanwhile(
        &self,
        request: Request,
        call: &mut Option<Call>,
        write: &mut OwnedWriteHalf,
    ) -> Result<Reply, CniError> {
        let mut answer = pin!(self.answer(request, call));
        loop {
            match tokio::time::timeout(HEARTBEAT, &mut answer).await {
                Ok(reply) => return reply,
                Err(_not_yet) => say(write, &Reply::Working).await,
            }
        }
    }

    /// `call`: what the plugin calls about, from its first question until it hangs up.
    async fn answer(&self, request: Request, call: &mut Option<Call>) -> Result<Reply, CniError> {
        debug!(?request, "plugin");
        if let Some(about) =
            request.attachment().filter(|about| !call.as_ref().is_some_and(|call| call.is_about(about)))
        {
            *call = Some(self.calls.begin(about).await);
        }
        match request {
            Request::Prepare(request) => self.prepare(&request).await.map(Reply::Prepared),
            Request::Commit { attachment, limited } => self.commit(&attachment, limited).await.map(Reply::Done),
            Request::Release { attachment, own_addresses } => {
                self.release(&attachment, own_addresses).await.map(Reply::Done)
            }
            Request::Check { attachment } => self.check(&attachment).await.map(Reply::Done),
            Request::Gc { valid } => self.collect(&valid).await.map(Reply::Collected),
            Request::Status => self.ready().map(|_readiness| Reply::Done(None)),
        }
    }

    fn ready(&self) -> Result<Readiness, CniError> {
        let readiness = *self.readiness.borrow();
        if readiness.ready && readiness.mtu != 0 {
            return Ok(readiness);
        }
        let details = "it has not brought the datapath up yet; `margay status` says why";
        Err(CniError::new(code::TRY_AGAIN, "waiting for Margay's agent", details))
    }

    fn attached(&self, attachment: &AttachmentId) -> Option<Attached> {
        let Versioned { records, .. } = &*self.lock();
        records.get(attachment).map(|record| records.attached(record))
    }

    /// What is about to be given is remembered first, so that an agent that dies over it leaves a trace.
    async fn prepare(&self, request: &Prepare) -> Result<Prepared, CniError> {
        let mtu = self.ready()?.mtu;
        if !request.given.is_empty() {
            let addresses = request.given.clone();
            self.change(|records| records.prepare(request, addresses.clone())).await?;
            return Ok(Prepared { addresses, mtu, mac: None });
        }
        self.change(|records| records.expect(request)).await?;
        let Assigned { addresses, mac } = self.addresses.assign(request, self.wishes_of(request)).await?;
        // What is on disk leads to them by the attachment's handle; the second half of ADD keeps them.
        self.note(|records| records.prepare(request, addresses.clone()));
        Ok(Prepared { addresses, mtu, mac })
    }

    async fn commit(&self, attachment: &AttachmentId, limited: bool) -> Result<Option<Attached>, CniError> {
        if !self.change(|records| records.commit(attachment)).await? {
            let details = "nobody prepared it, or it was released meanwhile";
            return Err(CniError::new(code::TRY_AGAIN, "putting the attachment in force", details));
        }
        let Some(attached) = self.attached(attachment) else { return Ok(None) };
        self.pass(Some(attached.host_interface.clone()), limited).await?;
        info!(interface = attached.host_interface, addresses = ?attached.addresses, "attached");
        Ok(Some(attached))
    }

    /// First out of force, then back to the pool: nobody else may have an address that is still somebody's here. And
    /// remembered until it is back, so that what fails, or dies with the agent, is gone on with by the next DEL or GC.
    ///
    /// Of an attachment that is not remembered, an address may be out all the same: whoever gave it may have been
    /// another agent, with another directory.
    async fn release(&self, attachment: &AttachmentId, own_addresses: bool) -> Result<Option<Attached>, CniError> {
        let Some(attached) = self.attached(attachment) else {
            if own_addresses {
                self.addresses.release(attachment).await?;
            }
            return Ok(None);
        };
        let own_addresses = self.change(|records| records.retire(attachment).is_some_and(|r| r.own_addresses)).await?;
        self.pass(None, false).await?;
        if own_addresses {
            self.addresses.release(attachment).await?;
        }
        self.change(|records| records.remove(attachment)).await?;
        info!(interface = attached.host_interface, addresses = ?attached.addresses, "released");
        Ok(Some(attached))
    }

    /// Whether a plugin calls about an attachment.
    pub fn is_called_about(&self, attachment: &AttachmentId) -> bool {
        self.calls.any(attachment)
    }

    /// Does what a DEL would have done for an attachment that is over, if it is still as it was seen and nobody calls about it.
    /// Addresses that another address manager gave stay remembered: the plugin, which alone can tell it, finds them so.
    ///
    /// # Errors
    /// Its addresses cannot be taken back yet; it stays remembered.
    pub async fn take_back(&self, seen: &Record) -> Result<(), CniError> {
        let attachment = &seen.attachment;
        let Some(_alone) = self.calls.alone(attachment) else { return Ok(()) };
        if self.lock().records.get(attachment) != Some(seen) {
            return Ok(());
        }
        info!(pod = %seen.pod, container = attachment.container_id, "its sandbox is gone, and no DEL came through");
        if seen.own_addresses {
            return self.release(attachment, true).await.map(drop);
        }
        self.change(|records| records.retire(attachment).is_some()).await?;
        self.pass(None, false).await
    }

    /// What is attached, if it is, and in force.
    async fn check(&self, attachment: &AttachmentId) -> Result<Option<Attached>, CniError> {
        let committed = self.lock().records.get(attachment).is_some_and(|record| record.committed);
        let Some(attached) = self.attached(attachment).filter(|_| committed) else { return Ok(None) };
        self.pass(Some(attached.host_interface.clone()), false).await?;
        Ok(Some(attached))
    }

    async fn collect(&self, valid: &[AttachmentId]) -> Result<Vec<AttachmentId>, CniError> {
        let stale = self.lock().records.stale(valid);
        let mut failed = None;
        // One that cannot be released keeps no other.
        for attachment in &stale {
            failed = self.release(attachment, false).await.err().or(failed);
        }
        failed.map_or(Ok(stale), Err)
    }

    /// Has the agent's loop make a pass, and waits until it is over.
    async fn pass(&self, interface: Option<String>, settled: bool) -> Result<(), CniError> {
        let failed = |details: String| CniError::new(code::TRY_AGAIN, "putting the attachment in force", details);
        let (done, over) = oneshot::channel();
        let asked = self.passes.send(PassRequest { interface, settled, done }).await;
        asked.map_err(|_gone| failed("the agent is stopping".to_owned()))?;
        match tokio::time::timeout(PASS_PATIENCE, over).await {
            Ok(Ok(result)) => result.map_err(failed),
            Ok(Err(_gone)) => Err(failed("the agent is stopping".to_owned())),
            Err(_late) => Err(failed(format!("the agent took longer than {PASS_PATIENCE:?}"))),
        }
    }
}

/// Says something to a plugin that may have hung up.
async fn say(write: &mut OwnedWriteHalf, reply: &Reply) {
    let Ok(mut line) = serde_json::to_vec(reply) else { return };
    line.push(b'\n');
    drop(write.write_all(&line).await);
}
