//! Margay on a real Kubernetes: two nodes with kubelet and containerd each, Margay installed by `kubectl apply` of `deploy/`
//! with the image of `cargo xtask image`.
//!
//! One cluster for all of it, without kube-proxy until the check that wants one. `cargo xtask test --kubernetes` runs this;
//! by hand, against a cluster of `cargo xtask lab up --kubernetes`:
//! `MARGAY_E2E_CLUSTER=lab cargo test -p margay-tests --test kubernetes_e2e -- --include-ignored [PART-OF-A-NAME]`.

mod faults;
mod harness;
mod install;
mod pods;
mod policies;
mod services;
mod suite;

use std::process::ExitCode;

use self::{
    harness::{Check, run},
    suite::Suite,
};

/// In the order in which they build on each other: those before the last two leave a running cluster without pods.
const CHECKS: &[Check<Suite>] = &[
    Check { name: "install::both_nodes_become_ready", run: install::both_nodes_become_ready },
    Check { name: "install::nodes_have_tunnel_addresses", run: install::nodes_have_tunnel_addresses },
    Check { name: "install::agents_answer_on_one_port", run: install::agents_answer_on_one_port },
    Check { name: "pods::twenty_pods_reach_each_other", run: pods::twenty_pods_reach_each_other },
    Check { name: "pods::exec_and_logs_work", run: pods::exec_and_logs_work },
    Check { name: "pods::probes_work", run: pods::probes_work },
    Check { name: "pods::the_world_sees_the_nodes_address", run: pods::the_world_sees_the_nodes_address },
    Check { name: "pods::deleted_they_leave_nothing", run: pods::deleted_they_leave_nothing },
    Check { name: "policies::they_say_who_may_come_in", run: policies::they_say_who_may_come_in },
    Check { name: "policies::they_say_where_a_pod_may_go", run: policies::they_say_where_a_pod_may_go },
    Check { name: "policies::revoked_a_permission_ends", run: policies::revoked_a_permission_ends },
    Check { name: "policies::a_new_pod_gets_nothing", run: policies::a_new_pod_gets_nothing },
    Check { name: "install::roles_are_enough", run: install::roles_are_enough },
    Check { name: "faults::a_killed_agent_changes_nothing", run: faults::a_killed_agent_changes_nothing },
    Check { name: "faults::a_killed_api_server_changes_nothing", run: faults::a_killed_api_server_changes_nothing },
    Check { name: "faults::a_killed_kubelet_changes_nothing", run: faults::a_killed_kubelet_changes_nothing },
    Check { name: "install::a_rolling_update_loses_no_packet", run: install::a_rolling_update_loses_no_packet },
    Check {
        name: "services::pods_reach_them_without_a_kube_proxy",
        run: services::pods_reach_them_without_a_kube_proxy,
    },
    Check { name: "services::names_are_resolved", run: services::names_are_resolved },
    Check { name: "services::they_work_with_a_kube_proxy", run: services::they_work_with_a_kube_proxy },
    Check {
        name: "services::they_work_with_a_kube_proxy_that_uses_iptables",
        run: services::they_work_with_a_kube_proxy_that_uses_iptables,
    },
    Check { name: "services::ports_of_hosts_lead_to_pods", run: services::ports_of_hosts_lead_to_pods },
    Check { name: "install::nothing_is_wrong_with_addresses", run: install::nothing_is_wrong_with_addresses },
    Check {
        name: "install::deleted_and_uninstalled_it_leaves_nothing",
        run: install::deleted_and_uninstalled_it_leaves_nothing,
    },
    Check { name: "install::the_cluster_leaves_nothing", run: install::the_cluster_leaves_nothing },
];

fn main() -> ExitCode {
    run(CHECKS, &mut Suite::new(), Suite::diagnosis)
}
