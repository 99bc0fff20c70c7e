//! The plugin's side of the socket. Never waits for an agent that is dead or stuck: one that works on an answer says so
//! every now and then, and one that says nothing is "try again later".

use std::{
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    protocol::{Reply, Request},
    spec::{CniError, code},
};

/// How long the agent may be silent. It says every [`super::server::HEARTBEAT`] that it still works on the answer.
const SILENCE: Duration = Duration::from_millis(2_500);

/// How long a whole call may take, however often the agent says that it works on it. The runtime repeats what fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the agent.
pub struct Agent {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
    deadline: Instant,
    /// Whether an answer has not come yet. It may come in place of the answer to something else.
    unanswered: bool,
}

// === impl Agent ===

impl Agent {
    /// Connects.
    ///
    /// # Errors
    /// [`code::TRY_AGAIN`]: nobody listens.
    pub fn connect(socket: &Path) -> Result<Self, CniError> {
        let stream = UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => Ok(Self {
                socket: socket.to_owned(),
                stream: BufReader::new(stream),
                deadline: Instant::now() + PATIENCE,
                unanswered: false,
            }),
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
        self.begin(request)?;
        self.answer()
    }

    /// Asks, and leaves the answer for [`Self::answer`], which must be the next thing asked for: the agent works on it while
    /// the caller does something else.
    ///
    /// # Errors
    /// [`code::TRY_AGAIN`]: the agent cannot be told.
    pub fn begin(&mut self, request: &Request) -> Result<(), CniError> {
        self.unanswered = true;
        self.tell(request).map_err(|e| self.silent(&e))
    }

    /// Waits for the answer to what was asked last.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn answer(&mut self) -> Result<Reply, CniError> {
        let reply = self.hear().map_err(|e| self.silent(&e))?;
        self.unanswered = false;
        match reply {
            Reply::Failed(error) => Err(error),
            reply => Ok(reply),
        }
    }

    fn silent(&self, error: &io::Error) -> CniError {
        let late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        let what = if late { "no answer in time".to_owned() } else { error.to_string() };
        CniError::new(code::TRY_AGAIN, "talking to Margay's agent", format!("{}: {what}", self.socket.display()))
    }

    /// Asks for something to be undone. An agent that owes an answer is told all the same: it does what it is asked in
    /// turn, whether anybody listens or not.
    pub fn undo(mut self, request: &Request) {
        if self.unanswered {
            drop(self.tell(request));
        } else {
            drop(self.ask(request));
        }
    }

    fn tell(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }

    fn hear(&mut self) -> io::Result<Reply> {
        loop {
            let mut answer = String::new();
            if self.stream.read_line(&mut answer)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match serde_json::from_str(&answer)? {
                Reply::Working if Instant::now() > self.deadline => return Err(ErrorKind::TimedOut.into()),
                Reply::Working => {}
                reply => return Ok(reply),
            }
        }
    }
}
