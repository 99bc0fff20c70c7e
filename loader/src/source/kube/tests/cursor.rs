//! What is asked next, and when.

use std::time::Duration;

use kube::core::Status;

use super::super::cursor::{Ask, Cursor, Heard};
use super::super::failure::Reason;
use super::super::kind::{Change, Event};
use crate::object::ObjectName;

/// In the middle of chance: pauses are what they are.
const MIDDLE: f64 = 0.5;
const NO_TIME: Duration = Duration::ZERO;

fn stream(no_older_than: Option<&str>) -> Ask {
    Ask::Stream { no_older_than: no_older_than.map(str::to_owned) }
}

fn changes(since: &str) -> Ask {
    Ask::Changes { since: since.to_owned() }
}

fn at(version: &str) -> Cursor {
    let mut cursor = Cursor::new();
    cursor.listed(version.to_owned());
    cursor
}

fn bookmark(version: &str, complete: bool) -> Event {
    Event::Bookmark { version: version.to_owned(), complete }
}

fn deleted(version: &str) -> Event {
    Event::Object { name: node(), change: Change::Deleted, version: version.to_owned() }
}

fn node() -> ObjectName {
    ObjectName::Node("a".to_owned())
}

#[test]
fn a_list_comes_first_and_then_the_changes_after_it() {
    let mut cursor = Cursor::new();
    assert_eq!(*cursor.ask(), stream(None));
    assert_eq!(cursor.heard(deleted("3")), Heard::Part(node(), Change::Deleted));
    assert_eq!(cursor.heard(bookmark("4", false)), Heard::Nothing);
    assert_eq!(*cursor.ask(), stream(None), "a bookmark in the midst of a list is not its end");
    assert_eq!(cursor.heard(bookmark("5", true)), Heard::Complete);
    assert_eq!(*cursor.ask(), changes("5"));
    assert_eq!(cursor.heard(deleted("6")), Heard::News(node(), Change::Deleted));
    assert_eq!(*cursor.ask(), changes("6"));
    assert_eq!(cursor.heard(bookmark("9", false)), Heard::Nothing);
    assert_eq!(*cursor.ask(), changes("9"));
}

#[test]
fn what_follows_a_failure() {
    let table = [
        // The server does not stream lists.
        (Cursor::new(), Reason::Unknown, Ask::Pages),
        // It has forgotten where we were: everything, but from no replica that is behind us.
        (at("7"), Reason::Gone, stream(Some("7"))),
        (at("7"), Reason::Unknown, stream(Some("7"))),
        // It was set back to before what we have.
        (at("7"), Reason::Older, stream(None)),
        // Nothing is lost yet.
        (at("7"), Reason::Unreachable, changes("7")),
        (at("7"), Reason::Silent, changes("7")),
        (at("7"), Reason::Busy, changes("7")),
        (at("7"), Reason::Server, changes("7")),
        (at("7"), Reason::Unauthorized, changes("7")),
        (at("7"), Reason::Forbidden, changes("7")),
        (at("7"), Reason::Garbled, changes("7")),
        // The kind was taken away.
        (at("7"), Reason::Absent, stream(None)),
    ];
    for (mut cursor, reason, next) in table {
        let before = cursor.ask().clone();
        cursor.failed(reason, NO_TIME, MIDDLE);
        assert_eq!(*cursor.ask(), next, "{before:?} {reason:?}");
    }
}

#[test]
fn a_list_in_pages_that_fails_is_begun_anew_in_the_better_way() {
    let mut cursor = Cursor::new();
    assert_eq!(cursor.failed(Reason::Unknown, NO_TIME, MIDDLE), Duration::ZERO, "asked in another way at once");
    assert!(cursor.failed(Reason::Gone, NO_TIME, MIDDLE) > Duration::ZERO, "a token has expired");
    assert_eq!(*cursor.ask(), stream(None));
}

#[test]
fn a_list_no_older_than_what_the_server_can_have_is_asked_for_without_that() {
    let mut cursor = at("7");
    cursor.failed(Reason::Gone, NO_TIME, MIDDLE);
    cursor.failed(Reason::Older, NO_TIME, MIDDLE);
    assert_eq!(*cursor.ask(), stream(None));
}

#[test]
fn a_bookmark_from_the_past_ends_the_watch() {
    let mut cursor = at("10");
    assert!(matches!(cursor.heard(bookmark("9", false)), Heard::Over(failure) if failure.reason == Reason::Older));
    assert!(matches!(at("x10").heard(bookmark("9", false)), Heard::Nothing), "what is no number cannot be compared");
    // 9 < 10 as numbers, not as text.
    assert!(matches!(at("9").heard(bookmark("10", false)), Heard::Nothing));
}

#[test]
fn after_a_watch_that_said_nothing_at_all_the_server_is_asked_where_it_is() {
    let minute = Duration::from_secs(60);
    let mut cursor = at("10");
    cursor.silent(minute, MIDDLE);
    let version = Ask::Version { since: "10".to_owned() };
    assert_eq!(*cursor.ask(), version);
    cursor.failed(Reason::Unreachable, NO_TIME, MIDDLE);
    assert_eq!(*cursor.ask(), version, "asked again");
    cursor.checked("12").unwrap();
    assert_eq!(*cursor.ask(), changes("10"), "where we are, and not where it is: there may be changes between");
    cursor.silent(minute, MIDDLE);
    assert_eq!(cursor.checked("9").unwrap_err().reason, Reason::Older);
    cursor.failed(Reason::Older, NO_TIME, MIDDLE);
    assert_eq!(*cursor.ask(), stream(None));
}

#[test]
fn errors_within_a_watch_are_told_apart() {
    let table = [(410, Reason::Gone), (401, Reason::Unauthorized), (500, Reason::Server), (429, Reason::Busy)];
    for (code, reason) in table {
        let status = Status::failure("it said so", "Because").with_code(code);
        let Heard::Over(failure) = at("1").heard(Event::Error(Box::new(status))) else { panic!("{code}") };
        assert_eq!((failure.reason, failure.said), (reason, format!("it said so (status {code})")));
    }
    let status = Status::failure("Too large resource version: 9, current: 3", "Timeout").with_code(504);
    assert!(matches!(at("9").heard(Event::Error(Box::new(status))), Heard::Over(f) if f.reason == Reason::Older));
}

#[test]
fn pauses_double_up_to_half_a_minute_and_no_further_or_to_less_where_nobody_listens() {
    let mut cursor = Cursor::new();
    let pauses: Vec<_> = (0..9).map(|_| cursor.failed(Reason::Server, NO_TIME, MIDDLE).as_secs_f32()).collect();
    assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
    let mut cursor = Cursor::new();
    let pauses: Vec<_> = (0..9).map(|_| cursor.failed(Reason::Unreachable, NO_TIME, MIDDLE).as_secs_f32()).collect();
    assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
    for _ in 0..100 {
        assert_eq!(cursor.failed(Reason::Unreachable, NO_TIME, MIDDLE), Duration::from_secs(8));
    }
}

#[test]
fn chance_spreads_pauses_from_half_to_one_and_a_half() {
    let pause = |chance| Cursor::new().failed(Reason::Server, NO_TIME, chance);
    assert_eq!(pause(0.0), Duration::from_millis(250));
    assert!(pause(0.999) < Duration::from_millis(750) && pause(0.999) > Duration::from_millis(740));
}

#[test]
fn a_busy_server_is_left_alone_for_a_while() {
    assert!(at("1").failed(Reason::Busy, NO_TIME, 0.0) >= Duration::from_secs(1));
}

#[test]
fn a_watch_that_worked_is_taken_up_again_at_once() {
    let hour = Duration::from_secs(3600);
    let mut cursor = at("1");
    for _ in 0..5 {
        cursor.failed(Reason::Unreachable, NO_TIME, MIDDLE);
    }
    assert!(cursor.ended(hour, MIDDLE) < Duration::from_secs(1));
    assert_eq!(cursor.failed(Reason::Unreachable, NO_TIME, MIDDLE), Duration::from_millis(500), "begun anew");
}

#[test]
fn who_cuts_watches_every_few_seconds_makes_us_deaf_for_no_longer_than_that() {
    let mut cursor = at("1");
    let lived = Duration::from_secs(4);
    let pauses: Vec<_> = (0..20).map(|_| cursor.ended(lived, MIDDLE)).collect();
    assert!(pauses.iter().all(|pause| *pause <= lived));
    assert_eq!(pauses.last(), Some(&lived));
}

#[test]
fn who_accepts_and_hangs_up_is_not_asked_in_a_loop() {
    let mut cursor = at("1");
    let in_a_minute = (0..).map(|_| cursor.ended(Duration::from_millis(1), MIDDLE)).take_while({
        let mut spent = Duration::ZERO;
        move |pause| {
            spent += *pause;
            spent < Duration::from_secs(60)
        }
    });
    assert!(in_a_minute.count() <= 120);
}

#[test]
fn lists_that_fail_late_are_not_asked_for_sooner() {
    let mut cursor = Cursor::new();
    let hour = Duration::from_secs(3600);
    let pauses: Vec<_> = (0..7).map(|_| cursor.failed(Reason::Garbled, hour, MIDDLE).as_secs()).collect();
    assert_eq!(pauses.last(), Some(&30), "a relist costs the server most of all: {pauses:?}");
}

#[test]
fn a_kind_is_absent_at_once_where_none_are_known_and_otherwise_only_after_several_looks() {
    let mut cursor = Cursor::new();
    assert!(!cursor.is_absent(false));
    cursor.failed(Reason::Absent, NO_TIME, MIDDLE);
    assert!(cursor.is_absent(false) && !cursor.is_absent(true));
    let pauses: Vec<_> = (0..9).map(|_| cursor.failed(Reason::Absent, NO_TIME, MIDDLE).as_secs()).collect();
    assert!(cursor.is_absent(true));
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    cursor.listed("1".to_owned());
    assert!(!cursor.is_absent(false));
}
