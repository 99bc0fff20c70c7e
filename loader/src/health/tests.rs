//! What is answered, and when.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use margay_maps::{Counter, DropReason, Hook, Outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::metrics::Counters;
use super::{Answer, Health, Took};
use crate::datapath::Backend;
use crate::datapath::pins::PinDir;
use crate::problem::Problem;
use crate::state::Status;

fn status(ready: bool, problems: &[Problem]) -> Status {
    Status {
        node: "node \"a\"".to_owned(),
        pid: 1,
        version: "0.1.0".to_owned(),
        layout: "abcd".to_owned(),
        ready,
        synced_at: 1_800_000_000,
        pass_ms: 7,
        change_us: None,
        passes: 3,
        backend: Backend::Tcx,
        features: Vec::new(),
        programs: Vec::new(),
        nodes: 2,
        pods: 5,
        names: [("10.0.0.1".parse().unwrap(), "default/web".to_owned())].into(),
        waiting: Vec::new(),
        interfaces: Vec::new(),
        problems: problems.to_vec(),
    }
}

/// Changes are taken in by some passes.
fn took(ms: u64) -> Took {
    let pass = Duration::from_millis(ms);
    Took { pass, change: (5..60_000).contains(&ms).then_some(pass) }
}

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + secs)
}

#[test]
fn an_agent_whose_passes_end_is_alive_and_one_whose_passes_do_not_is_not() {
    let health = Health::new(Duration::from_secs(5));
    let after = |secs| Instant::now() + Duration::from_secs(secs);
    assert_eq!(health.alive(after(100)).status, 200, "the first pass has its time");
    assert_eq!(health.alive(after(130)).status, 503);
    health.passed(status(false, &[]), took(1), None);
    assert_eq!(health.alive(after(100)), Answer::ok("ok"), "ready or not");
    let slow = Health::new(Duration::from_secs(60));
    assert_eq!(slow.alive(after(500)).status, 200, "its passes are rare");
}

#[test]
fn ready_is_who_has_put_something_in_force() {
    let health = Health::new(Duration::from_secs(5));
    assert_eq!(health.ready().status, 503);
    let problem = Problem::new("input", "nothing is known", "wait");
    health.passed(status(false, std::slice::from_ref(&problem)), took(1), None);
    let Answer { status: code, body } = health.ready();
    assert_eq!((code, body.as_str()), (503, "the cluster's state is not in force\ninput: nothing is known; wait\n"));
    health.passed(status(true, &[problem]), took(1), None);
    assert_eq!(health.ready(), Answer::ok("ok"), "what is wrong elsewhere does not make it unready");
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let health = Health::new(Duration::from_secs(5));
    for ms in [4, 5, 30, 60_000] {
        health.passed(status(true, &[]), took(ms), Some(at(0)));
    }
    let counters = Counters {
        traffic: vec![
            (Hook::ALL[0], Outcome::ALL[0], Counter { packets: 1, bytes: 2 }),
            (Hook::ALL[0], Outcome::ALL[1], Counter { packets: 3, bytes: 4 }),
        ],
        drops: vec![(DropReason::ALL[0], Counter { packets: 5, bytes: 6 })],
        maps: vec![("MARGAY_ROUTES", 7, 8)],
    };
    let text = health.metrics(Ok(&counters), at(3)).body;
    let (hook, outcomes, reason) = (Hook::ALL[0], Outcome::ALL, DropReason::ALL[0]);
    for line in [
        r#"margay_info{node="node \"a\"",version="0.1.0",layout="abcd",backend="tcx"} 1"#,
        "margay_ready 1",
        "margay_problems 0",
        "margay_source_age_seconds 3",
        "# TYPE margay_pass_duration_seconds histogram",
        r#"margay_pass_duration_seconds_bucket{le="0.005"} 2"#,
        r#"margay_pass_duration_seconds_bucket{le="0.025"} 2"#,
        r#"margay_pass_duration_seconds_bucket{le="0.05"} 3"#,
        r#"margay_pass_duration_seconds_bucket{le="+Inf"} 4"#,
        "margay_pass_duration_seconds_sum 60.039",
        "margay_pass_duration_seconds_count 4",
        r#"margay_change_duration_seconds_bucket{le="0.01"} 1"#,
        "margay_change_duration_seconds_count 2",
        r#"margay_map_entries{map="MARGAY_ROUTES"} 7"#,
        r#"margay_map_max_entries{map="MARGAY_ROUTES"} 8"#,
        &format!(r#"margay_packets_total{{hook="{hook}",outcome="{}"}} 1"#, outcomes[0]),
        &format!(r#"margay_bytes_total{{hook="{hook}",outcome="{}"}} 4"#, outcomes[1]),
        &format!(r#"margay_dropped_packets_total{{reason="{reason}"}} 5"#),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let mut seen = std::collections::HashSet::new();
    let mut last = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let name = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(name == last || seen.insert(name), "the samples of {name} do not stand together");
        last = name;
    }
}

async fn get(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_taken_address_is_a_problem_until_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let health = Health::new(Duration::from_secs(5));
    let dir = tempfile::tempdir().unwrap();
    health.serve(address, PinDir::of(dir.path()));
    let wait = |problem: bool| {
        let health = health.clone();
        async move {
            while health.problem().is_some() != problem {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    wait(true).await;
    assert!(health.problem().unwrap().to_string().contains("--health-addr"));
    drop(taken);
    wait(false).await;

    assert!(get(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "GET /readyz").await.starts_with("HTTP/1.1 503"));
    assert!(get(address, "GET /").await.starts_with("HTTP/1.1 404"));
    assert!(get(address, "POST /healthz").await.starts_with("HTTP/1.1 405"));
    let metrics = get(address, "GET /metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 500") && metrics.contains("opening the maps"), "no datapath here: {metrics}");
}
