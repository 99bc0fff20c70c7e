//! The agent's side of the socket.
//!
//! In: questions. Out: answers from the last pass, and for whoever monitors what happens. Never: a wait for the agent's loop, nor one
//! of the loop for a reader.

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use margay_maps::Id;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use tracing::warn;

use super::{
    View, Watched,
    protocol::{Reply, Request},
};
use crate::events::pump::Pump;

/// Listens on the socket and serves until the runtime ends.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(socket: &Path, view: Watched, pump: Pump) -> io::Result<()> {
    // One that an earlier agent left. The lock on the state directory says that none runs now.
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _peer)) => drop(tokio::spawn(serve(stream, view.clone(), pump.clone()))),
                Err(e) => {
                    warn!("accepting a connection for questions: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

/// How long a pass may take, between whose first change and whose end there is nothing to be seen.
const PASS: Duration = Duration::from_secs(3);

/// One that asks, until it hangs up.
async fn serve(stream: UnixStream, mut view: Watched, pump: Pump) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Nobody holds a view for longer than an answer takes: what it shares with the agent would have to be copied.
        let view = match timeout(PASS, view.wait_for(Option::is_some)).await {
            Ok(Ok(view)) => view.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let reply = match (serde_json::from_str(&line), view) {
            (Err(e), _) => Reply::Failed(format!("understanding the question: {e}: the command is of another version")),
            (_, None) => Reply::Failed("the agent has not completed a pass yet; `margay status` says why".to_owned()),
            (Ok(Request::Monitor), Some(view)) => return monitor(view.node.clone(), &pump, lines, write).await,
            (Ok(request), Some(view)) => answer(&request, &view),
        };
        if say(&mut write, &reply).await.is_err() {
            return;
        }
    }
}

fn answer(request: &Request, view: &View) -> Reply {
    match request {
        Request::Ends { ends } => {
            let ends: Result<Vec<_>, String> = ends.iter().map(|end| view.end(end)).collect();
            ends.map_or_else(Reply::Failed, Reply::Ends)
        }
        Request::Origins { ids } => {
            let known = |id: &String| {
                let bytes = u64::from_str_radix(id, 16).ok()?.to_be_bytes();
                Some((id.clone(), view.origin(Id { bytes })?))
            };
            Reply::Origins(ids.iter().filter_map(known).collect::<BTreeMap<_, _>>())
        }
        Request::Policies => Reply::Policies(view.policies()),
        Request::Monitor => Reply::Failed("monitoring is a conversation of its own".to_owned()),
    }
}

/// Tells what happens until either side hangs up.
async fn monitor(node: String, pump: &Pump, mut lines: Lines<BufReader<OwnedReadHalf>>, mut write: OwnedWriteHalf) {
    let mut told = pump.listen().await;
    if say(&mut write, &Reply::Listening { node }).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            batch = told.recv() => {
                let Some(batch) = batch else { return };
                if write.write_all(&batch).await.is_err() {
                    return;
                }
            }
            // Nothing more is expected: whoever says something has hung up, or is confused.
            _ = lines.next_line() => return,
        }
    }
}

async fn say(write: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}
