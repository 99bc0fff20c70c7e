//! The source against a fake server: what it makes of answers, errors and silence.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::kept::Kept;
use super::super::kind::Kind;
use super::super::{KubeSource, Source as _};
use super::fake::{self, Fake, Reply, bookmark, listed, node, until};

fn nodes(source: &KubeSource) -> Vec<String> {
    source.objects().map(|objects| objects.nodes.keys().cloned().collect()).unwrap_or_default()
}

fn is_known(source: &KubeSource) -> bool {
    source.objects().is_some()
}

fn said(source: &KubeSource) -> String {
    source.problems().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_list_is_streamed_and_followed_by_changes() {
    let fake = Fake::start().await;
    let (sender, receiver) = mpsc::unbounded_channel();
    let first = vec![node("ADDED", "a", 1), node("ADDED", "b", 2)];
    fake.script(Kind::Node, [Reply::Lines(first, receiver)]);
    let mut source = fake.source();
    let mut wakes = source.watch();
    until(&mut source, "the other kinds", |source| source.known.len() == Kind::ALL.len() - 1).await;
    assert!(!is_known(&source), "half a list is none");
    while wakes.try_recv().is_ok() {}

    assert!(!source.is_settled(), "worth a moment's wait");
    sender.send(listed(2)).unwrap();
    wakes.recv().await.unwrap();
    assert!(source.is_settled());
    assert!(source.read());
    assert_eq!(nodes(&source), ["a", "b"]);
    assert!(!source.read(), "nothing new");

    for (line, expected) in [
        (node("ADDED", "c", 3), &["a", "b", "c"][..]),
        (node("DELETED", "a", 4), &["b", "c"]),
        (node("MODIFIED", "b", 5), &["b", "c"]),
        (node("DELETED", "b", 6), &["c"]),
    ] {
        sender.send(line.clone()).unwrap();
        until(&mut source, &line, |source| nodes(source) == expected).await;
    }
    let asked = &fake.asked(Kind::Node)[0].what;
    for part in
        ["watch=true", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan", "allowWatchBookmarks=true"]
    {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    assert!(asked.ends_with("resourceVersion="), "as it is now: {asked}");
    assert_eq!(said(&source), "");
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    let fake = Fake::start().await;
    let page = |name: &str, more: &str| {
        Reply::Status(
            200,
            format!(
                r#"{{"kind":"NodeList","apiVersion":"v1","metadata":{{"resourceVersion":"5","continue":"{more}"}},"items":[{{"metadata":{{"name":"{name}"}}}}]}}"#
            ),
        )
    };
    fake.answer(Kind::Node, move |asked| match asked {
        _ if asked.contains("sendInitialEvents") => {
            Reply::error(422, "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
        }
        _ if asked.contains("continue=second") => page("b", ""),
        _ if asked.contains("watch=true") => Reply::stay(vec![node("ADDED", "c", 6)]),
        _ => page("a", "second"),
    });
    let mut source = fake.source();
    until(&mut source, "pages, then changes", |source| nodes(source) == ["a", "b", "c"]).await;
    let asked = fake.asked(Kind::Node);
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(asked[3].what.ends_with("resourceVersion=5"), "{asked:?}");
    assert!(asked[3].at - asked[0].at < Duration::from_secs(1), "without a pause: {asked:?}");
    assert_eq!(said(&source), "");
}

#[tokio::test]
async fn changes_that_the_server_has_forgotten_make_a_new_list_and_no_gap() {
    let fake = Fake::start().await;
    let gone = format!(r#"{{"type":"ERROR","object":{}}}"#, fake::error(410, "too old resource version"));
    let (sender, receiver) = mpsc::unbounded_channel();
    fake.script(
        Kind::Node,
        [
            Reply::stay(vec![node("ADDED", "a", 1), node("ADDED", "b", 2), listed(7), gone]),
            Reply::error(410, "too old resource version"),
            Reply::Lines(vec![node("ADDED", "b", 2)], receiver),
        ],
    );
    let mut source = fake.source();
    until(&mut source, "the first list", |source| nodes(source) == ["a", "b"]).await;
    until(&mut source, "the third request", |_| fake.asked(Kind::Node).len() == 3).await;
    sleep(Duration::from_millis(50)).await;
    source.read();
    assert_eq!(nodes(&source), ["a", "b"], "as long as the new list is not complete");
    assert!(fake.asked(Kind::Node)[1].what.ends_with("resourceVersion=7"), "not from a replica that is behind");
    sender.send(listed(9)).unwrap();
    until(&mut source, "what has gone meanwhile", |source| nodes(source) == ["b"]).await;
}

#[tokio::test]
async fn a_list_that_breaks_off_changes_nothing() {
    let fake = Fake::start().await;
    fake.script(
        Kind::Node,
        [
            Reply::end(vec![node("ADDED", "a", 1)]),
            Reply::end(vec![node("ADDED", "a", 1), "{\"type\":\"ADDED\",\"obj".to_owned()]),
            Reply::stay(vec![node("ADDED", "b", 1), listed(2)]),
        ],
    );
    let mut source = fake.source();
    until(&mut source, "a whole list", is_known).await;
    assert_eq!(nodes(&source), ["b"]);
}

#[tokio::test]
async fn errors_leave_the_last_state_in_force_and_are_not_answered_by_a_storm() {
    let table = [(500, "API server's log"), (429, "too much to do"), (403, "list and watch"), (401, "renew")];
    futures::future::join_all(table.map(|(code, remedy)| an_error_leaves_the_last_state_in_force(code, remedy))).await;
}

async fn an_error_leaves_the_last_state_in_force(code: u16, remedy: &str) {
    let fake = Fake::start().await;
    fake.script(Kind::Node, [Reply::end(vec![node("ADDED", "a", 1), listed(2)])]);
    let mut source = fake.source();
    until(&mut source, "the list", is_known).await;
    fake.answer(Kind::Node, move |_| Reply::error(code, "not now"));
    until(&mut source, "a word about it", |source| !source.problems().is_empty()).await;
    assert_eq!(nodes(&source), ["a"]);
    let problems = said(&source);
    for part in ["nodes cannot be watched since", "not now", &code.to_string(), remedy, "the state of 20"] {
        assert!(problems.contains(part), "{part} in {problems}");
    }
    sleep(Duration::from_secs(6)).await;
    let asked = fake.asked(Kind::Node);
    // The first list, the watch that ended with it, and then after 0.25, 0.5, 1, 2, 4 s at least, or twice that and so on.
    assert!(asked.len() <= 8, "pauses double: {asked:?}");
    assert!(asked[2..].iter().all(|asked| asked.what.contains("resourceVersion=2")), "no new list: {asked:?}");
    fake.answer(Kind::Node, |_| Reply::stay(vec![node("ADDED", "b", 3)]));
    until(&mut source, "recovery", |source| nodes(source) == ["a", "b"] && source.problems().is_empty()).await;
}

#[tokio::test]
async fn a_server_that_has_gone_is_looked_for_with_pauses_that_double() {
    let fake = Fake::start().await;
    fake.script(Kind::Node, [Reply::end(vec![node("ADDED", "a", 1), listed(2)])]);
    let mut source = fake.source();
    until(&mut source, "the list", is_known).await;
    fake.answer(Kind::Node, |_| Reply::HangUp);
    sleep(Duration::from_secs(8)).await;
    let asked = fake.asked(Kind::Node);
    // As above. A connection that breaks before the answer is what a proxy before a dead server looks like.
    assert!((4..=8).contains(&asked.len()), "pauses double: {asked:?}");
    source.read();
    assert_eq!(nodes(&source), ["a"]);
}

#[tokio::test]
async fn who_accepts_and_hangs_up_is_not_asked_in_a_loop() {
    let fake = Fake::start().await;
    fake.answer(Kind::Node, |_| Reply::end(vec![node("ADDED", "a", 1), listed(2)]));
    let mut source = fake.source();
    until(&mut source, "the list", is_known).await;
    sleep(Duration::from_secs(3)).await;
    let asked = fake.asked(Kind::Node);
    assert!(asked.len() <= 12, "{asked:?}");
}

#[tokio::test]
async fn silence_is_answered_by_a_new_connection_and_goes_on_where_it_was() {
    let fake = Fake::start().await;
    fake.script(
        Kind::Node,
        [
            Reply::stay(vec![node("ADDED", "a", 1), listed(2), bookmark(8, "")]),
            Reply::stay(vec![node("ADDED", "b", 9)]),
        ],
    );
    let mut source = fake.source();
    until(&mut source, "what comes after the silence", |source| nodes(source) == ["a", "b"]).await;
    let asked = fake.asked(Kind::Node);
    let silence = asked[1].at - asked[0].at;
    assert!(silence >= fake::PATIENCE.silence && silence < Duration::from_secs(10), "{silence:?}");
    assert!(asked[1].what.ends_with("resourceVersion=8"), "after the bookmark: {asked:?}");
    assert_eq!(said(&source), "", "a quiet cluster is no problem");
}

#[tokio::test]
async fn bookmarks_are_words_enough() {
    let fake = Fake::start().await;
    let (sender, receiver) = mpsc::unbounded_channel();
    fake.script(Kind::Node, [Reply::Lines(vec![listed(1)], receiver)]);
    let mut source = fake.source();
    for version in 2..8 {
        sleep(Duration::from_millis(500)).await;
        sender.send(bookmark(version, "")).unwrap();
    }
    until(&mut source, "the list", is_known).await;
    assert_eq!(fake.asked(Kind::Node).len(), 1);
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_told_of() {
    let fake = Fake::start().await;
    fake.script(Kind::Node, [Reply::end(vec![node("ADDED", "a", 1), listed(2)])]);
    let mut source = fake.source();
    until(&mut source, "a word about it", |source| said(source).contains("no answer within 2 s")).await;
    assert_eq!(nodes(&source), ["a"]);
}

#[tokio::test]
async fn a_server_that_was_set_back_and_waits_until_it_has_caught_up_is_found_out() {
    let fake = Fake::start().await;
    fake.answer(Kind::Node, |asked| match asked {
        _ if asked.contains("limit=1") => Reply::Status(
            200,
            r#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"50"},"items":[]}"#.to_owned(),
        ),
        _ if asked.ends_with("resourceVersion=90") => Reply::stay(Vec::new()),
        _ => Reply::end(vec![node("ADDED", "a", 90), listed(90)]),
    });
    let mut source = fake.source();
    until(&mut source, "the list", |source| nodes(source) == ["a"]).await;
    until(&mut source, "the question", |_| fake.asked(Kind::Node).iter().any(|a| a.what.contains("limit=1"))).await;
    fake.answer(Kind::Node, |_| Reply::stay(vec![node("ADDED", "b", 50), listed(50)]));
    until(&mut source, "the world as it is now", |source| nodes(source) == ["b"]).await;
}

#[tokio::test]
async fn when_one_watch_finds_the_server_the_others_follow() {
    let fake = Fake::start().await;
    for kind in Kind::ALL {
        fake.answer(kind, |_| Reply::error(500, "not now"));
    }
    let mut source = fake.source();
    until(&mut source, "five tries each", |_| Kind::ALL.iter().all(|kind| fake.asked(*kind).len() >= 5)).await;
    // Now each of them waits for 4 to 12 s.
    for kind in Kind::ALL {
        fake.answer(kind, |_| Reply::stay(vec![listed(1)]));
    }
    until(&mut source, "all", is_known).await;
    let last = |kind: &Kind| fake.asked(*kind).last().map(|asked| asked.at).unwrap_or_default();
    let (first, last) = (Kind::ALL.iter().map(last).min().unwrap(), Kind::ALL.iter().map(last).max().unwrap());
    assert!(last - first < Duration::from_secs(2), "{first:?} {last:?}");
}

#[tokio::test]
async fn a_server_that_was_set_back_is_believed() {
    let fake = Fake::start().await;
    fake.script(
        Kind::Node,
        [
            Reply::end(vec![node("ADDED", "a", 90), listed(90)]),
            Reply::stay(vec![bookmark(50, "")]),
            Reply::stay(vec![node("ADDED", "b", 50), listed(50)]),
        ],
    );
    let mut source = fake.source();
    until(&mut source, "the list", is_known).await;
    until(&mut source, "the world as it is now", |source| nodes(source) == ["b"]).await;
    assert!(fake.asked(Kind::Node)[2].what.ends_with("resourceVersion="));
}

#[tokio::test]
async fn a_kind_that_is_not_defined_is_empty_until_it_is() {
    let fake = Fake::start().await;
    fake.answer(Kind::Block, |_| Reply::Status(404, "404 page not found\n".to_owned()));
    let mut source = fake.source();
    until(&mut source, "all kinds", is_known).await;
    assert_eq!(said(&source), "");
    fake.answer(Kind::Block, |_| Reply::stay(vec![fake::block("ADDED", "a-10-0-0-0-26", 3), listed(3)]));
    until(&mut source, "the block", |source| source.objects.blocks.len() == 1).await;
}

#[tokio::test]
async fn a_server_that_does_not_know_its_custom_resources_yet_deletes_none() {
    let fake = Fake::start().await;
    fake.script(Kind::Block, [Reply::end(vec![fake::block("ADDED", "a-10-0-0-0-26", 3), listed(3)])]);
    let mut source = fake.source();
    until(&mut source, "the block", is_known).await;
    fake.answer(Kind::Block, |_| Reply::Status(404, "404 page not found\n".to_owned()));
    until(&mut source, "three looks", |_| fake.asked(Kind::Block).len() == 4).await;
    sleep(Duration::from_millis(50)).await;
    source.read();
    assert_eq!(source.objects.blocks.len(), 1);
    until(&mut source, "in the end", |source| source.objects.blocks.is_empty()).await;
    assert!(fake.asked(Kind::Block).len() >= 5);
}

#[tokio::test]
async fn a_missing_core_kind_is_an_error_and_not_an_empty_cluster() {
    let fake = Fake::start().await;
    fake.script(Kind::Node, [Reply::end(vec![node("ADDED", "a", 1), listed(2)])]);
    let mut source = fake.source();
    until(&mut source, "the list", is_known).await;
    fake.answer(Kind::Node, |_| Reply::Status(404, "404 page not found\n".to_owned()));
    until(&mut source, "a word about it", |source| said(source).contains("404 page not found")).await;
    assert_eq!(nodes(&source), ["a"]);
}

#[tokio::test]
async fn one_strange_object_is_a_problem_of_its_own() {
    let fake = Fake::start().await;
    let strange = node("ADDED", "odd", 2).replace(r#""metadata""#, r#""spec":7,"metadata""#);
    fake.script(Kind::Node, [Reply::stay(vec![node("ADDED", "a", 1), strange, listed(2), node("ADDED", "b", 3)])]);
    let mut source = fake.source();
    until(&mut source, "the others", |source| nodes(source) == ["a", "b"]).await;
    assert!(said(&source).starts_with("Node odd: it cannot be read"), "{}", said(&source));
}

/// An address on which nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn without_a_server_the_next_agent_begins_with_what_the_last_one_knew() {
    let fake = Fake::start().await;
    fake.script(Kind::Node, [Reply::stay(vec![node("ADDED", "a", 1), listed(2)])]);
    let mut source = fake.source();
    until(&mut source, "the list", is_known).await;
    let dir = tempfile::tempdir().unwrap();
    let state = crate::state::StateDir::of(dir.path());
    source.keep(&state, super::super::Keep::NowAndThen).unwrap();
    // It is being written; the end waits for that, and has nothing to add.
    source.keep(&state, super::super::Keep::Last).unwrap();
    let as_of = source.as_of().unwrap();
    drop((source, fake));

    let kept: Option<Kept> = state.last_good().unwrap();
    let mut next = fake::source(nobody().await, kept);
    assert_eq!(nodes(&next), ["a"], "at once");
    while !next.is_settled() {
        sleep(Duration::from_millis(5)).await;
    }
    let age = next.as_of().unwrap().duration_since(as_of - Duration::from_secs(1)).unwrap();
    assert!(age <= Duration::from_secs(1) && next.as_of().unwrap() <= SystemTime::now());
    // Each kind is told of when it has failed long enough, in the end all of them in one sentence.
    let all = "nodes, pods, blockaffinities, ippools, namespaces, networkpolicies, services and endpointslices cannot be watched";
    until(&mut next, "a word about all", |source| said(source).contains(all)).await;
    assert!(said(&next).contains("refused"), "{}", said(&next));
    assert_eq!(nodes(&next), ["a"]);
}

#[tokio::test]
async fn without_a_server_and_without_a_past_nothing_is_known_and_said_at_once() {
    let mut source = fake::source(nobody().await, None);
    until(&mut source, "a word about it", |source| said(source).contains("nothing is known of the cluster yet")).await;
    assert!(!is_known(&source) && source.as_of().is_none());
}
