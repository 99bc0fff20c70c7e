//! Many pods, one after another and at once, and an agent that restarts beside them. The times are printed, not judged: what
//! else the machine does is not the plugin's fault. docs/PERFORMANCE.md says how to take them on a quiet one.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::node::{Node, Sandbox, ip_of};

#[test]
fn two_hundred_pods_ten_at_a_time_and_a_restart_beside_a_hundred() {
    Node::test("cni_two_hundred", |node| {
        let sandboxes = node.sandboxes_of_known_pods(200)?;
        let mut addresses = BTreeSet::new();
        let before = node.processor_times()?;
        let added = each_of_ten(&sandboxes, |pod| {
            let began = Instant::now();
            let result = pod.add()?;
            Ok((began.elapsed(), ip_of(&result)?))
        })?;
        let after = node.processor_times()?;
        for (_, address) in &added {
            ensure!(addresses.insert(*address), "{address} was given twice");
        }
        report("ADDs, 10 at a time", added.iter().map(|(time, _)| *time).collect());
        for ((who, before), (_, after)) in before.into_iter().zip(after) {
            println!("  {who}: {:.1} ms of processor time for each", (after - before).as_secs_f64() * 1_000.0 / 200.0);
        }
        addresses.iter().try_for_each(|ip| node.reaches(*ip))?;

        let (half, rest) = sandboxes.split_at(100);
        each_of_ten(half, |pod| pod.call("DEL").map(drop))?;
        node.kill_agent()?;
        let began = Instant::now();
        node.start_agent()?;
        println!("an agent started beside 100 pods is in sync after {} ms", began.elapsed().as_millis());
        added[100..].iter().try_for_each(|(_, ip)| node.reaches(*ip)).context("after the restart")?;
        each_of_ten(rest, |pod| pod.call("DEL").map(drop))?;
        node.has_no_trace()
    });
}

#[test]
fn one_pod_after_another() {
    Node::test("cni_one_by_one", |node| {
        let mut times = Vec::new();
        for pod in node.sandboxes_of_known_pods(40)? {
            let began = Instant::now();
            pod.add()?;
            times.push(began.elapsed());
            pod.call("DEL")?;
        }
        report("ADDs, one at a time", times);
        node.has_no_trace()
    });
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1_000.0;
    println!("{} {what}: median {:.1} ms, p99 {:.1} ms", times.len(), at(50), at(99));
}

/// Ten threads share the sandboxes out among them.
fn each_of_ten<T: Send>(sandboxes: &[Sandbox], call: impl Fn(&Sandbox) -> Result<T> + Sync) -> Result<Vec<T>> {
    let share = sandboxes.len().div_ceil(10);
    thread::scope(|scope| {
        let call = &call;
        let threads =
            sandboxes.chunks(share).map(|some| scope.spawn(move || some.iter().map(call).collect::<Vec<_>>()));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a test's thread panicked")).collect()
    })
}
