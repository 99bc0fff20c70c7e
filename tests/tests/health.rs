//! What supervisors and Prometheus hear of an agent, over the network, with a real datapath.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use margay_lab::{Lab, agent::find_binary, observe::eventually};
use margay_maps::MAPS;
use nix::sys::signal::Signal;

const PORT: u16 = 9099;

/// The status and the body of an answer, asked from within the node.
fn get(lab: &Lab, path: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    let answer = lab.node("a")?.namespace.run(move || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).context("an answer has a status")?;
    Ok((status.parse()?, body.to_owned()))
}

/// Each sample of `/metrics` by its name and labels.
fn metrics(lab: &Lab) -> Result<BTreeMap<String, f64>> {
    let (status, body) = get(lab, "/metrics")?;
    ensure!(status == 200, "{status}: {body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}

#[test]
fn supervisors_and_prometheus_are_answered() {
    let lab = Lab::builder("health").node("a").node("b").pod("x").on("a").pod("far").on("b");
    lab.agent_argument(&format!("--health-addr=127.0.0.1:{PORT}")).test(|lab| {
        for path in ["/healthz", "/readyz"] {
            let (status, body) = get(lab, path)?;
            ensure!((status, body.as_str()) == (200, "ok\n"), "{path}: {status} {body}");
        }
        let before = metrics(lab)?;
        for (name, value) in
            [("margay_ready", 1.0), ("margay_problems", 0.0), ("margay_nodes", 2.0), ("margay_pods", 2.0)]
        {
            ensure!(before.get(name) == Some(&value), "{name} is {:?}", before.get(name));
        }
        ensure!(before.get("margay_source_age_seconds").is_some_and(|age| *age < 60.0), "{before:?}");
        ensure!(before.contains_key("margay_pass_duration_seconds_count"), "{before:?}");
        for map in MAPS.iter().filter(|map| before.contains_key(&format!("margay_map_entries{{map=\"{}\"}}", map.name)))
        {
            let max = before.get(&format!("margay_map_max_entries{{map=\"{}\"}}", map.name));
            ensure!(max == Some(&f64::from(map.max_entries)), "{}: {max:?}", map.name);
        }

        lab.everything_reaches_everything()?;
        let after = metrics(lab)?;
        let packets = |samples: &BTreeMap<String, f64>| -> f64 {
            let of_x =
                samples.iter().filter(|(name, _)| name.starts_with("margay_packets_total{hook=\"from_workload\""));
            of_x.map(|(_, value)| value).sum()
        };
        ensure!(packets(&after) > packets(&before), "{} and {}", packets(&before), packets(&after));
        // No series comes or goes.
        ensure!(before.keys().eq(after.keys()), "{:?} and {:?}", before.keys(), after.keys());
        Ok(())
    });
}

#[test]
fn a_new_agent_takes_the_address_over() {
    let lab = Lab::builder("health_again").node("a").agent_argument(&format!("--health-addr=127.0.0.1:{PORT}"));
    lab.test(|lab| {
        ensure!(get(lab, "/healthz")?.0 == 200);
        lab.stop_agent("a", Signal::SIGTERM)?;
        if let Ok(answer) = get(lab, "/healthz") {
            bail!("nobody is there, and says {answer:?}");
        }
        lab.start_agent("a", &find_binary()?)?;
        eventually("it answers again", Duration::from_secs(20), || {
            let (status, body) = get(lab, "/readyz")?;
            ensure!(status == 200, "{status}: {body}");
            Ok(())
        })
    });
}
