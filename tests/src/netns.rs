//! Named network namespaces: made, entered and removed without any external command.
//!
//! In: a name. Out: a bind mount `/run/netns/NAME`, as ip-netns(8) makes it, so that `ip netns exec` works as well.
//! Never: a change of the calling thread's own namespace. Whatever has to happen inside a namespace happens on a
//! thread, or in a child process, that enters it and ends there.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where ip-netns(8) keeps the names.
pub const DIR: &str = "/run/netns";

/// The longest file name that Linux allows (`NAME_MAX`), in bytes.
const MAX_NAME: usize = 255;

/// An open network namespace. Its settings are what the kernel gives a new one. Some machines let it inherit an unusual TCP
/// congestion control (`bbr`) and refuse others in it, so figures are to be compared only between namespaces.
///
/// Dropping it leaves the name alone; [`Namespace::remove`] takes that away.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    file: Arc<File>,
}

// === impl Namespace ===

impl Namespace {
    /// Makes a new namespace of this name, with its loopback down, as the kernel gives it.
    ///
    /// # Errors
    /// The name is taken or too long, or the kernel refuses (no privileges, no namespaces).
    pub fn create(name: &str) -> Result<Self> {
        if name.len() > MAX_NAME || name.is_empty() || name.contains('/') {
            bail!("making a network namespace {name:?}: a name has 1 to {MAX_NAME} bytes and no slash");
        }
        let _lock = prepare_dir().with_context(|| format!("preparing {DIR}"))?;
        let path = path(name);
        File::options().write(true).create_new(true).open(&path).with_context(|| {
            format!("making the network namespace {name}: {} cannot be created; is it taken?", path.display())
        })?;
        let made = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET): are you root?")?;
            let source = Path::new("/proc/thread-self/ns/net");
            mount(Some(source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("binding it to {}", path.display()))
        });
        if let Err(error) = made {
            // Nothing is mounted on it; the original error is the one to report.
            let _ = fs::remove_file(&path);
            return Err(error.context(format!("making the network namespace {name}")));
        }
        Self::open(name)
    }

    /// Opens an existing one.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        Self::at(name, &path(name))
    }

    /// Opens one that has its file elsewhere, and gives it a name for messages.
    ///
    /// # Errors
    /// There is none at this path.
    pub fn at(name: &str, path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("opening the network namespace {}", path.display()))?;
        Ok(Self { name: name.to_owned(), file: Arc::new(file) })
    }

    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn current() -> Result<Self> {
        let path = "/proc/thread-self/ns/net";
        let file = File::open(path).with_context(|| format!("opening {path}"))?;
        Ok(Self { name: "this machine".to_owned(), file: Arc::new(file) })
    }

    /// Takes the name away. The namespace itself ends with the last process, thread or open file that uses it. No
    /// error if there is none of this name.
    ///
    /// # Errors
    /// The kernel refuses to unmount it, or the file cannot be deleted.
    pub fn remove(name: &str) -> Result<()> {
        let path = path(name);
        // EINVAL: the file is there but nothing is mounted on it, half-made as it is.
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::Error::ENOENT | nix::Error::EINVAL) => {}
            Err(error) => return Err(error).with_context(|| format!("unmounting {}", path.display())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("deleting {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The names that begin with `prefix`, in order.
    ///
    /// # Errors
    /// The directory is there but cannot be read.
    pub fn list(prefix: &str) -> Result<Vec<String>> {
        let entries = match fs::read_dir(DIR) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("listing {DIR}"))?,
        };
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|n| n.starts_with(prefix)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Its name below [`DIR`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` inside the namespace, on a thread of its own, and waits for it. A panic in `f` goes on in the caller.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `f` returns.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            self.enter()?;
            f()
        })
    }

    /// Starts `f` inside the namespace, on a thread of its own.
    pub fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> Result<T> + Send + 'static) -> JoinHandle<Result<T>> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter()?;
            f()
        })
    }

    /// A command that will run inside the namespace. Only the network namespace changes, so `/sys` and all mounts stay
    /// as they are (ip-netns(8) mounts a fresh `/sys`, which hides bpffs).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.entering(Command::new(program))
    }

    /// A command that exists already, to run inside the namespace.
    pub fn entering(&self, mut command: Command) -> Command {
        let file = Arc::clone(&self.file);
        // SAFETY: setns(2) is one system call on a descriptor that the closure keeps open; it allocates nothing.
        unsafe { command.pre_exec(move || setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)) };
        command
    }

    /// The descriptor's number, for netlink messages that name a namespace.
    pub(crate) fn raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Moves the calling thread for good; so only threads that end here call it.
    fn enter(&self) -> Result<()> {
        setns(self.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the network namespace {}: are you root?", self.name))
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The file that stands for the namespace `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Runs `f` on a thread of its own and waits for it, panics included.
fn on_a_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Makes [`DIR`] a shared mount of its own, as ip-netns(8) does when it is first used, and under the same lock. Without
/// it the first `ip netns add` after us would cover our names with its own mount.
fn prepare_dir() -> Result<Flock<File>> {
    fs::create_dir_all(DIR)?;
    let lock =
        Flock::lock(File::open(DIR)?, FlockArg::LockExclusive).map_err(|(_, error)| error).context("locking it")?;
    let share = || mount(None::<&str>, DIR, None::<&str>, MsFlags::MS_SHARED.union(MsFlags::MS_REC), None::<&str>);
    if share() == Err(nix::Error::EINVAL) {
        let bind = MsFlags::MS_BIND.union(MsFlags::MS_REC);
        mount(Some(DIR), DIR, None::<&str>, bind, None::<&str>).context("mounting it onto itself")?;
        share().context("making it a shared mount")?;
    }
    Ok(lock)
}
