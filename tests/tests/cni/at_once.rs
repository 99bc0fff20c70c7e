//! Calls that meet each other, a sandbox that vanishes, an agent that hangs: a right result or an error that says "again",
//! and nothing is left.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::node::{Node, Sandbox, code, ip_of};

/// What a call that lost against another may say: the sandbox is gone, again later, the interface is gone.
const RACES: [u64; 3] = [5, 11, 101];

/// Makes several calls at the same moment.
fn at_once<const N: usize>(calls: [(&Sandbox, &str); N]) -> [Result<Value>; N] {
    thread::scope(|scope| {
        let threads = calls.map(|(pod, command)| scope.spawn(move || pod.call(command)));
        threads.map(|thread| thread.join().expect("a test's thread panicked"))
    })
}

fn won_or_lost(result: &Result<Value>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => {
            ensure!(RACES.contains(&code(error)), "{error:#}");
            Ok(())
        }
    }
}

#[test]
fn calls_that_meet_end_as_if_they_had_not() {
    Node::test("cni_at_once", |node| {
        // One sandbox twice: both have the same address.
        let twice = node.sandbox("twice")?;
        let [first, second] = at_once([(&twice, "ADD"), (&twice, "ADD")]);
        let (first, second) = (first.context("first")?, second.context("second")?);
        ensure!(first["ips"] == second["ips"], "{first} {second}");
        node.reaches(ip_of(&first)?)?;
        twice.call("CHECK")?;
        twice.call("DEL")?;

        // Two sandboxes of one pod: one interface's name. Whoever comes again gets it.
        for round in 0..3 {
            let old = node.sandbox_of("pod", &format!("old{round}"))?;
            let new = node.sandbox_of("pod", &format!("new{round}"))?;
            at_once([(&old, "ADD"), (&new, "ADD")]).iter().try_for_each(won_or_lost)?;
            node.reaches(ip_of(&new.add()?)?)?;
            old.call("DEL")?;
            new.call("CHECK").context("the DEL of the other sandbox")?;
            new.call("DEL")?;
        }

        // ADD and DEL of one sandbox.
        for round in 0..5 {
            let pod = node.sandbox_of("undecided", &format!("{round}"))?;
            at_once([(&pod, "ADD"), (&pod, "DEL")]).iter().try_for_each(won_or_lost)?;
            pod.call("DEL")?;
        }

        // The sandbox goes while its pod comes.
        for wait in [0, 5, 10, 20, 40] {
            let pod = node.sandbox_of("brief", &wait.to_string())?;
            let added = thread::scope(|scope| {
                let adding = scope.spawn(|| pod.add());
                thread::sleep(Duration::from_millis(wait));
                let removed = pod.remove_netns();
                let added = adding.join().expect("a test's thread panicked");
                removed.map(|()| added)
            })?;
            won_or_lost(&added)?;
            pod.call("DEL")?;
        }
        node.has_no_trace()
    });
}

#[test]
fn an_agent_that_hangs_is_not_waited_for_and_does_later_what_it_was_told() {
    Node::test("cni_hung_agent", |node| {
        let pod = node.sandbox("pod")?;
        node.signal_agent(Signal::SIGSTOP)?;
        let began = Instant::now();
        let error = pod.add().expect_err("the agent hangs");
        ensure!(code(&error) == 11, "{error}");
        // Twice the silence that is allowed would be 5 s.
        ensure!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        node.signal_agent(Signal::SIGCONT)?;
        node.has_no_trace().context("nobody called DEL")?;
        node.reaches(ip_of(&pod.add()?)?)?;
        pod.call("DEL")?;
        node.has_no_trace()
    });
}

#[test]
fn an_agent_killed_in_the_middle_leaves_nothing_that_del_does_not_find() {
    Node::test("cni_killed_agent", |node| {
        for wait in [2, 10, 20, 30, 50] {
            let pod = node.sandbox_of("pod", &wait.to_string())?;
            thread::scope(|scope| {
                let adding = scope.spawn(|| pod.add());
                thread::sleep(Duration::from_millis(wait));
                node.kill_agent()?;
                won_or_lost(&adding.join().expect("a test's thread panicked"))
            })?;
            node.start_agent()?;
            pod.call("DEL")?;
        }
        node.has_no_trace()
    });
}
