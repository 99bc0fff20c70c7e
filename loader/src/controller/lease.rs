//! Which of several controllers works: the one that holds a Lease (coordination.k8s.io/v1, as client-go's leader election
//! keeps it).
//!
//! In: the Lease as it is now and was before. Out: what to do about it; and through a channel, whether this controller leads. Never: a
//! comparison of two machines' clocks: a Lease has run out when it was not renewed for its duration as this machine saw it.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// For how long a Lease is good that is not renewed (client-go's default for Kubernetes' own controllers).
const DURATION: Duration = Duration::from_secs(15);
/// Who could not renew for this long stops to lead, well before anybody else begins to.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often to renew, or to look whether the Lease has run out.
const RETRY: Duration = Duration::from_secs(2);
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Which Lease, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// What this controller calls itself; no other may be called the same.
    pub identity: String,
}

/// What to do about the Lease.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Write it: it is ours, nobody's, or has run out.
    Write(Box<LeaseSpec>),
    /// Somebody else has it.
    Wait,
}

/// The Lease as it was last seen to change.
#[derive(Clone, Debug, Default)]
struct Seen {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    at: Option<Instant>,
}

// === impl LeaseConfig ===

impl fmt::Display for LeaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

// === impl Seen ===

impl Seen {
    /// What to do, having read the Lease just now.
    fn step(&mut self, lease: Option<&LeaseSpec>, me: &str, now: Instant, clock: Timestamp) -> Step {
        let empty = LeaseSpec::default();
        let spec = lease.unwrap_or(&empty);
        if self.at.is_none() || self.holder != spec.holder_identity || self.renewed != spec.renew_time {
            *self = Self { holder: spec.holder_identity.clone(), renewed: spec.renew_time.clone(), at: Some(now) };
        }
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let duration = spec.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
        let duration = duration.map_or(DURATION, Duration::from_secs);
        let unchanged = self.at.map_or(Duration::ZERO, |at| now.duration_since(at));
        if !holder.is_empty() && holder != me && unchanged < duration {
            return Step::Wait;
        }
        let ours = holder == me;
        let since = if ours { spec.acquire_time.clone() } else { None };
        let changes = spec.lease_transitions.unwrap_or_default();
        Step::Write(Box::new(LeaseSpec {
            holder_identity: Some(me.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: since.or(Some(MicroTime(clock))),
            renew_time: Some(MicroTime(clock)),
            lease_transitions: Some(if ours || lease.is_none() { changes } else { changes + 1 }),
            ..spec.clone()
        }))
    }
}

/// Gets the Lease and keeps it until `stopped` closes, then gives it up. Says through `leads` whether it has it.
pub(super) async fn hold(
    client: Client,
    config: LeaseConfig,
    leads: watch::Sender<bool>,
    mut stopped: watch::Receiver<()>,
) {
    let api: Api<Lease> = Api::namespaced(client, &config.namespace);
    let mut seen = Seen::default();
    let mut renewed = None;
    let mut said = None;
    loop {
        match timeout(CALL_TIMEOUT, attempt(&api, &config, &mut seen)).await {
            Ok(Ok(true)) => renewed = Some(Instant::now()),
            Ok(Ok(false)) => renewed = None,
            Ok(Err(error)) => complain(&mut said, &config, &error.to_string()),
            Err(_) => complain(&mut said, &config, "the API server does not answer"),
        }
        let leads_now = renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE);
        let changed = leads.send_if_modified(|leads| std::mem::replace(leads, leads_now) != leads_now);
        if changed {
            said = None;
            info!(lease = %config, "{}", if leads_now { "this controller works" } else { "another controller works" });
        }
        tokio::select! {
            () = sleep(RETRY) => {}
            _ = stopped.changed() => break,
        }
    }
    if *leads.borrow() {
        // Failing that, it runs out.
        let _ = timeout(CALL_TIMEOUT, give_up(&api, &config)).await;
    }
}

/// Says once what keeps going wrong.
fn complain(said: &mut Option<String>, config: &LeaseConfig, what: &str) {
    if said.as_deref() != Some(what) {
        warn!(lease = %config, "{what}");
        *said = Some(what.to_owned());
    }
}

/// Reads the Lease, and writes it if it is to be ours. Answers whether it is.
async fn attempt(api: &Api<Lease>, config: &LeaseConfig, seen: &mut Seen) -> Result<bool, kube::Error> {
    let lease = api.get_opt(&config.name).await?;
    let spec = lease.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
    let Step::Write(spec) = seen.step(spec.as_ref(), &config.identity, Instant::now(), Timestamp::now()) else {
        return Ok(false);
    };
    let written = match lease {
        Some(mut lease) => {
            lease.spec = Some(*spec);
            api.replace(&config.name, &PostParams::default(), &lease).await
        }
        None => {
            let metadata = ObjectMeta { name: Some(config.name.clone()), ..ObjectMeta::default() };
            api.create(&PostParams::default(), &Lease { metadata, spec: Some(*spec) }).await
        }
    };
    match written {
        Ok(_) => Ok(true),
        // Somebody else was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lets the next one begin at once.
async fn give_up(api: &Api<Lease>, config: &LeaseConfig) -> Result<(), kube::Error> {
    let Some(mut lease) = api.get_opt(&config.name).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_ref() == Some(&config.identity)) else {
        return Ok(());
    };
    spec.holder_identity = None;
    spec.lease_duration_seconds = Some(1);
    api.replace(&config.name, &PostParams::default(), &lease).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(holder: &str, renewed_secs: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed_secs).unwrap())),
            acquire_time: Some(MicroTime(Timestamp::from_second(1).unwrap())),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        }
    }

    fn written(step: Step) -> LeaseSpec {
        match step {
            Step::Write(spec) => *spec,
            Step::Wait => panic!("it waits"),
        }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_or_it_was_not_renewed_for_its_duration() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let clock = Timestamp::from_second(1_000).unwrap();
        let step = |seen: &mut Seen, lease: Option<&LeaseSpec>, secs| seen.step(lease, "me", at(secs), clock);

        let new = written(step(&mut Seen::default(), None, 0));
        assert_eq!((new.holder_identity.as_deref(), new.lease_transitions), (Some("me"), Some(0)));
        assert_eq!(new.renew_time, Some(MicroTime(clock)));

        let mut seen = Seen::default();
        assert_eq!(step(&mut seen, Some(&spec("you", 5)), 0), Step::Wait, "however old its time is");
        assert_eq!(step(&mut seen, Some(&spec("you", 5)), 14), Step::Wait);
        let taken = written(step(&mut seen, Some(&spec("you", 5)), 15));
        assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(4), Some(MicroTime(clock))));

        let mut seen = Seen::default();
        step(&mut seen, Some(&spec("you", 5)), 0);
        assert_eq!(step(&mut seen, Some(&spec("you", 6)), 14), Step::Wait);
        assert_eq!(step(&mut seen, Some(&spec("you", 6)), 28), Step::Wait, "renewed in between");

        let mut seen = Seen::default();
        let kept = written(step(&mut seen, Some(&spec("me", 5)), 0));
        assert_eq!((kept.lease_transitions, kept.acquire_time), (Some(3), spec("me", 5).acquire_time));
        let given_up = LeaseSpec { holder_identity: None, ..spec("", 5) };
        assert_eq!(written(step(&mut seen, Some(&given_up), 1)).lease_transitions, Some(4));
    }
}
