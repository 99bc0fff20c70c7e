//! Both ends of a pod's veth pair send from the moment they are configured, while hundreds of others come and go: the kernel is slow to
//! notice then that the other end is up, and discards what comes before. Without the wait for it, 5 to 10 of these 150 first frames to
//! pods are lost.

use std::{
    fs,
    io::Write as _,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread::{scope, sleep},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use margay_lab::{Namespace, netns, probe::Sender};
use margay_loader::cni::wire::{Pair, Wire};

/// How many pods.
const PODS: usize = 150;
/// How many threads make and delete other interfaces meanwhile, and how many pairs each has at once.
const OTHERS: usize = 4;
const PAIRS: usize = 30;
/// Longer than anything else that a new interface sends by itself.
const FRAME: [u8; 1_000] = [0x02; 1_000];
const HOST: &str = "cali0123456789a";
const POD: &str = "eth0";

/// A namespace that goes with the test.
struct Spot(Namespace);

#[test]
fn a_pod_sends_as_soon_as_it_is_configured() {
    let done = AtomicBool::new(false);
    let lost = scope(|threads| -> Result<[usize; 2]> {
        let done = &done;
        let others: Vec<_> = (0..OTHERS).map(|number| threads.spawn(move || come_and_go(number, done))).collect();
        let lost = Spot::new("host").and_then(|host| host.0.run(|| count_lost(&host.0)));
        done.store(true, Ordering::Relaxed);
        others.into_iter().try_for_each(|other| other.join().expect("a thread of the others panicked"))?;
        lost
    });
    assert_eq!(lost.unwrap(), [0, 0], "so many of {PODS} first frames from pods and to pods were lost");
}

/// On a thread of the node: how many first frames were lost, from pods and to them.
fn count_lost(host: &Namespace) -> Result<[usize; 2]> {
    let mut lost = [0; 2];
    for _ in 0..PODS {
        let pod = Spot::new("pod")?;
        let pair = Pair::make(&fs::File::open(netns::path(pod.0.name()))?, HOST, POD)?;
        // Opened before, for opening takes as long as the kernel mostly needs.
        let mut senders = [Sender::open(&pod.0, POD)?, Sender::open(host, HOST)?];
        pair.configure(&Wire { interface: POD, mac: None, addresses: &["10.66.0.9".parse()?], mtu: 1_450 })?;
        senders.iter_mut().try_for_each(|sender| sender.send(&FRAME))?;
        sleep(Duration::from_millis(2));
        for (lost, got) in lost.iter_mut().zip([received(host, HOST)?, received(&pod.0, POD)?]) {
            *lost += usize::from(got < FRAME.len() as u64);
        }
        pair.remove()?;
    }
    Ok(lost)
}

/// How many bytes have come by a device.
fn received(namespace: &Namespace, device: &str) -> Result<u64> {
    let table = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev").context("reading the counters"))?;
    let line = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let bytes = line.and_then(|counters| counters.split_whitespace().next()).context("the device has gone")?;
    Ok(bytes.parse()?)
}

/// Other pods' pairs, which go with their namespace: each change takes the kernel's one lock for all interfaces.
fn come_and_go(number: usize, done: &AtomicBool) -> Result<()> {
    let pairs = (0..PAIRS).map(|pair| {
        format!("link add near{pair} type veth peer name far{pair}\nlink set near{pair} up\nlink set far{pair} up\n")
    });
    let commands: String = pairs.collect();
    while !done.load(Ordering::Relaxed) {
        let here = Spot::new(&format!("others-{number}"))?;
        let mut ip = here.0.command("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().context("starting ip")?;
        ip.stdin.take().context("ip's input")?.write_all(commands.as_bytes())?;
        ensure!(ip.wait()?.success(), "ip failed");
    }
    Ok(())
}

// === impl Spot ===

impl Spot {
    fn new(name: &str) -> Result<Self> {
        let name = format!("mgy-cni_sends-{name}");
        ensure!(!netns::path(&name).exists(), "{name} is there already");
        Namespace::create(&name).map(Self)
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        // What cannot be removed is reported by whoever makes it again.
        let _ = Namespace::remove(self.0.name());
    }
}
