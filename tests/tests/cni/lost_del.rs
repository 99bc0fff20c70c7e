//! A sandbox goes and no DEL comes through: containerd sends one after an ADD that has failed, and no other if that fails
//! too. The agent finds what is left by itself, and takes nothing from a pod that lives.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use super::node::{Node, code, ip_of};

/// Two looks 5 s apart, passes that are up to 5 s apart, and some air for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn an_agent_killed_in_the_middle_of_an_add_takes_back_at_its_start_what_it_had_given() {
    Node::test("cni_killed_add", |node| {
        for wait in [2, 6, 10, 14, 18, 25, 40] {
            let pod = node.sandbox_of("pod", &wait.to_string())?;
            let added = thread::scope(|scope| {
                let adding = scope.spawn(|| pod.add());
                thread::sleep(Duration::from_millis(wait));
                node.kill_agent()?;
                Ok::<_, anyhow::Error>(adding.join().expect("a test's thread panicked"))
            })?;
            if added.is_err() {
                ensure!(code(&pod.call("DEL").expect_err("there is no agent")) == 11);
            }
            pod.remove_netns()?;
            node.start_agent()?;
        }
        node.has_no_trace_within(PATIENCE)
    });
}

#[test]
fn what_a_lost_del_leaves_is_taken_back_and_nothing_of_who_lives() {
    Node::test("cni_lost_del", |node| {
        let alive = node.sandbox("alive")?;
        let address = ip_of(&alive.add()?)?;
        let lost = node.sandbox("lost")?;
        lost.add()?;
        let old = node.sandbox_of("twice", "old")?;
        old.add()?;
        node.kill_agent()?;
        for pod in [&lost, &old] {
            ensure!(code(&pod.call("DEL").expect_err("there is no agent")) == 11);
            // The test still has the namespace open, so its end does not take the pair away.
            node.remove_interface(&pod.host_interface())?;
        }
        node.start_agent()?;
        let new = node.sandbox_of("twice", "new")?;
        let newer = ip_of(&new.add()?)?;
        let lives = |ends: &str| -> Result<()> {
            [address, newer].iter().try_for_each(|ip| node.reaches(*ip)).context(ends.to_owned())?;
            [&alive, &new].iter().try_for_each(|pod| pod.call("CHECK").map(drop)).context(ends.to_owned())
        };
        lives("before")?;
        // An API that is away takes nothing back, and nothing is forgotten meanwhile.
        node.without_api_server(|| {
            thread::sleep(Duration::from_secs(12));
            lives("without an API server")
        })?;
        within(PATIENCE, || node.addresses_in_use(), 2)?;
        lives("after")?;
        // A DEL that comes after all has nothing to do.
        lost.call("DEL")?;
        old.call("DEL")?;
        lives("after a late DEL")?;
        alive.call("DEL")?;
        new.call("DEL")?;
        node.has_no_trace()
    });
}

fn within(patience: Duration, count: impl Fn() -> Result<usize>, wanted: usize) -> Result<()> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let found = count()?;
        if found == wanted {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < deadline, "{found} addresses are in use and not {wanted}");
        thread::sleep(Duration::from_millis(200));
    }
}
