//! The command line's side of the socket.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use super::protocol::{Reply, Request};

/// How long an answer may take. The agent has it at hand.
const PATIENCE: Duration = Duration::from_secs(5);

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The agent says why.
    #[error("{0}")]
    Refused(String),
    /// The agent says nothing, or nothing that makes sense.
    #[error("{0:#}")]
    Gone(anyhow::Error),
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Agent {
    stream: BufReader<UnixStream>,
}

// === impl Agent ===

impl Agent {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| {
            format!("asking the agent at {}: it must be running on this node (`margay status`)", socket.display())
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The agent could not answer, or went away.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, AskError> {
        match self.exchange(request).map_err(AskError::Gone)? {
            Reply::Failed(why) => Err(AskError::Refused(why)),
            reply => Ok(reply),
        }
    }

    fn exchange(&mut self, request: &Request) -> Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).context("asking the agent")?;
        self.hear()?.ok_or_else(|| anyhow!("the agent hung up: it is stopping"))
    }

    /// From here on waits for an answer as long as it takes.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn wait_forever(&mut self) -> Result<()> {
        Ok(self.stream.get_mut().set_read_timeout(None)?)
    }

    /// The next line; `None` when the agent has hung up.
    ///
    /// # Errors
    /// It came too late, or is no answer.
    pub fn hear(&mut self) -> Result<Option<Reply>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("waiting for the agent")? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).context("understanding the agent: it is of another version")
    }
}
