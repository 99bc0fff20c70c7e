//! The plugin's side of the socket. Never waits longer than it may: an agent that is dead or stuck is "try again later".

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    protocol::{Reply, Request},
    spec::{CniError, code},
};

/// How long one answer may take. The runtime repeats what fails, so waiting long helps nobody.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// A connection to the agent.
pub struct Agent {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

// === impl Agent ===

impl Agent {
    /// Connects.
    ///
    /// # Errors
    /// [`code::TRY_AGAIN`]: nobody listens.
    pub fn connect(socket: &Path) -> Result<Self, CniError> {
        let stream = UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => Ok(Self { socket: socket.to_owned(), stream: BufReader::new(stream) }),
            Err(e) => Err(CniError::new(
                code::TRY_AGAIN,
                "connecting to Margay's agent",
                format!("{}: {e}; is the agent running on this node?", socket.display()),
            )),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the agent said, or [`code::TRY_AGAIN`] where it said nothing in time.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, CniError> {
        let reply = self.exchange(request).map_err(|e| {
            let late = matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            let what = if late { format!("no answer within {PATIENCE:?}") } else { e.to_string() };
            CniError::new(code::TRY_AGAIN, "talking to Margay's agent", format!("{}: {what}", self.socket.display()))
        })?;
        match reply {
            Reply::Failed(error) => Err(error),
            reply => Ok(reply),
        }
    }

    fn exchange(&mut self, request: &Request) -> std::io::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}
