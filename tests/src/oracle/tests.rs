//! What tables cannot say: answers' reasons and questions without an answer.

use super::{tables::cases, *};

fn ask(case: &str, from: &str, to: &str, traffic: &str) -> Result<Answer, NoAnswer> {
    let case = cases().find(|c| c.name == case).unwrap();
    let end = |text: &str| text.parse().unwrap();
    case.cluster().unwrap().ask(&Flow { from: end(from), to: end(to), traffic: traffic.parse().unwrap() })
}

fn rule(policy: Name, direction: Direction, index: usize) -> Judgement {
    Judgement::AllowedBy(RuleName { policy, direction, index })
}

#[test]
fn an_answer_names_the_rule_that_allows() {
    let answer = ask("both_ends", "shop/web", "data/db", "tcp/80").unwrap();
    assert_eq!(answer.egress, rule(Name::new("shop", "out"), Direction::Egress, 0));
    assert_eq!(answer.ingress, rule(Name::new("data", "in-db"), Direction::Ingress, 0));
    let answer = ask("rules_do_not_mix", "data/db", "shop/web", "tcp/81").unwrap();
    assert_eq!(answer.egress, Judgement::NotIsolated);
    assert_eq!(answer.ingress, rule(Name::new("shop", "two-rules"), Direction::Ingress, 1));
}

#[test]
fn an_answer_names_the_policies_that_isolate_and_which_end_denies() {
    let answer = ask("additive", "ops/probe", "shop/web", "tcp/80").unwrap();
    let names = ["from-cart", "from-storage", "deny-all"].map(|name| Name::new("shop", name));
    assert_eq!(answer.ingress, Judgement::Denied { isolated_by: names.to_vec() });
    assert_eq!(answer.egress, Judgement::NotIsolated);
    assert_eq!(
        answer.to_string(),
        "denied (egress: no policy selects the pod; ingress: isolated by shop/from-cart, shop/from-storage, \
         shop/deny-all, and no rule allows it)"
    );
}

#[test]
fn an_answer_names_the_exception() {
    let answer = ask("both_directions", "shop/web", "shop/web", "tcp/80").unwrap();
    assert_eq!((answer.egress, answer.ingress), (Judgement::Itself, Judgement::Itself));
    let answer = ask("both_directions", "a", "shop/web", "tcp/80").unwrap();
    assert_eq!((answer.egress, answer.ingress), (Judgement::NoPod, Judgement::OwnNode));
    let answer = ask("host_network", "ops/agent-b", "shop/web", "tcp/80").unwrap();
    assert_eq!((answer.egress, answer.ingress), (Judgement::NoPod, Judgement::NotIsolated));
}

#[test]
fn an_address_is_whoever_has_it() {
    for (address, name) in [("10.244.0.10", "shop/web"), ("192.168.0.1", "a")] {
        for to in ["shop/web", "shop/cart", "data/db", "203.0.113.1"] {
            let [by_address, by_name] = [address, name].map(|from| ask("both_directions", from, to, "tcp/80"));
            assert_eq!(by_address, by_name, "{address} to {to}");
        }
    }
}

#[test]
fn who_is_not_there_gets_no_answer() {
    let answer = |from| ask("finished_pods", from, "shop/web", "tcp/80").map_err(|e| e.to_string());
    assert_eq!(answer("shop/job").unwrap_err(), "shop/job has no address");
    assert_eq!(answer("shop/nobody").unwrap_err(), "there is no shop/nobody in the cluster");
    assert_eq!(answer("nowhere").unwrap_err(), "there is no nowhere in the cluster");
}

#[test]
fn questions_read_as_they_print() {
    for text in ["tcp/80", "udp/53", "sctp/65535", "icmp"] {
        assert_eq!(text.parse::<Traffic>().unwrap().to_string(), text);
    }
    for text in ["shop/web", "node-a", "203.0.113.7", "fd00::1"] {
        assert_eq!(text.parse::<End>().unwrap().to_string(), text);
    }
    for bad in ["tcp", "tcp/", "tcp/70000", "gre/1", "ICMP", ""] {
        assert!(bad.parse::<Traffic>().is_err(), "{bad}");
    }
}
