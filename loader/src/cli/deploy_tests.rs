//! The manifests in `deploy/`: each is what its kind says, and starts this binary with options that it has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory as _, Parser as _};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Container, Node, Pod, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::Cli;
use crate::crd::IpPool;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.chain(dirs.iter().flat_map(|dir| self::files(dir))).collect()
}

fn documents(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// All objects of `deploy/` with their files.
fn objects() -> Vec<(PathBuf, Value)> {
    let of = |file: PathBuf| documents(&file).into_iter().map(move |object| (file.clone(), object));
    files(&deploy()).into_iter().flat_map(of).collect()
}

fn one<K: DeserializeOwned>(kind: &str, name: &str) -> K {
    let is_it = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
    let found = objects().into_iter().find(|(_, object)| is_it(object));
    serde_json::from_value(found.unwrap_or_else(|| panic!("there is no {kind} {name}")).1).unwrap()
}

/// Everything that runs.
fn containers() -> Vec<Container> {
    let agent: DaemonSet = one("DaemonSet", "margay-agent");
    let controller: Deployment = one("Deployment", "margay-controller");
    let templates = [agent.spec.unwrap().template, controller.spec.unwrap().template];
    let pods = templates.into_iter().map(|template| template.spec.unwrap());
    pods.flat_map(|pod| pod.init_containers.into_iter().flatten().chain(pod.containers)).collect()
}

/// What `written` says and `read` does not: a misspelt or misplaced field vanishes in the typed object.
fn lost(written: &Value, read: &Value, path: &str) -> Option<String> {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => written.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            // An empty list is the same as none.
            let empty = value.as_array().is_some_and(Vec::is_empty);
            match read.get(key) {
                Some(read) => lost(value, read, &path),
                None => (!empty).then_some(path),
            }
        }),
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            written.iter().zip(read).enumerate().find_map(|(i, (w, r))| lost(w, r, &format!("{path}[{i}]")))
        }
        _ => (written != read).then(|| path.to_owned()),
    }
}

fn read_as<K: DeserializeOwned + Serialize>(file: &Path, object: &Value) {
    let typed: K = serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let lost = lost(object, &serde_json::to_value(&typed).unwrap(), "");
    assert_eq!(lost, None, "{}: the API does not know this field here", file.display());
}

#[test]
fn every_object_is_what_its_kind_says() {
    for (file, object) in objects() {
        let of = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
        match of {
            ("v1", "ConfigMap") => read_as::<ConfigMap>(&file, &object),
            ("v1", "Node") => read_as::<Node>(&file, &object),
            ("v1", "Pod") => read_as::<Pod>(&file, &object),
            ("v1", "ServiceAccount") => read_as::<ServiceAccount>(&file, &object),
            ("apps/v1", "DaemonSet") => read_as::<DaemonSet>(&file, &object),
            ("apps/v1", "Deployment") => read_as::<Deployment>(&file, &object),
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => read_as::<ClusterRole>(&file, &object),
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => read_as::<ClusterRoleBinding>(&file, &object),
            ("rbac.authorization.k8s.io/v1", "Role") => read_as::<Role>(&file, &object),
            ("rbac.authorization.k8s.io/v1", "RoleBinding") => read_as::<RoleBinding>(&file, &object),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
                read_as::<CustomResourceDefinition>(&file, &object);
            }
            ("crd.projectcalico.org/v1", "IPPool") => read_as::<IpPool>(&file, &object),
            ("kustomize.config.k8s.io/v1beta1", "Kustomization") => {}
            other => panic!("{}: {other:?} is checked by nobody", file.display()),
        }
    }
}

#[test]
fn the_kustomization_names_every_manifest_but_the_examples() {
    let kustomization = &documents(&deploy().join("kustomization.yaml"))[0];
    let named: BTreeSet<_> =
        kustomization["resources"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    let all = files(&deploy());
    let relative = all.iter().map(|file| file.strip_prefix(deploy()).unwrap().to_str().unwrap());
    let wanted = relative.filter(|file| !file.starts_with("examples/") && *file != "kustomization.yaml");
    assert_eq!(named, wanted.collect());
}

#[test]
fn the_arguments_are_ones_that_this_binary_has() {
    for container in containers() {
        let args: Vec<String> = container.args.unwrap();
        let args = args.iter().map(|arg| arg.replace("$(NODENAME)", "node-a"));
        let words = std::iter::once("margay".to_owned()).chain(args);
        if container.name == "controller" && Cli::command().find_subcommand("controller").is_none() {
            continue;
        }
        if let Err(e) = Cli::try_parse_from(words) {
            panic!("container {}: {e}", container.name);
        }
    }
}

#[test]
fn the_variables_are_ones_that_this_binary_reads() {
    let mut command = Cli::command();
    command.build();
    let subcommands = command.get_subcommands().cloned().collect::<Vec<_>>();
    let arguments = subcommands.iter().flat_map(|command| command.get_arguments()).chain(command.get_arguments());
    let mut known: BTreeSet<_> = arguments.filter_map(|arg| arg.get_env()?.to_str()).collect();
    known.extend(["MARGAY_LOG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"]);
    let config: ConfigMap = one("ConfigMap", "margay-config");
    let set =
        containers().into_iter().flat_map(|container| container.env.unwrap_or_default()).map(|variable| variable.name);
    for name in set.chain(config.data.unwrap().into_keys()) {
        assert!(known.contains(name.as_str()), "{name} is read by nobody");
    }
}

#[test]
fn the_image_is_of_this_version() {
    for container in containers() {
        let expected = format!("docker.io/library/margay:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(container.image, Some(expected), "container {}", container.name);
    }
}

#[test]
fn nothing_is_privileged_and_every_capability_is_known() {
    for container in containers() {
        let context = container.security_context.unwrap();
        assert_eq!(context.privileged, None, "container {}", container.name);
        assert_eq!(context.allow_privilege_escalation, Some(false), "container {}", container.name);
        let capabilities = context.capabilities.unwrap();
        assert_eq!(capabilities.drop.unwrap(), ["ALL"]);
        let wanted: &[&str] =
            if container.name == "agent" { &["BPF", "NET_ADMIN", "PERFMON", "SYS_RESOURCE"] } else { &[] };
        assert_eq!(capabilities.add.unwrap_or_default(), wanted, "container {}", container.name);
    }
}

#[test]
fn no_role_allows_everything() {
    let all = |rule: &PolicyRule| {
        let lists = [Some(&rule.verbs), rule.resources.as_ref(), rule.api_groups.as_ref()];
        lists.into_iter().flatten().flatten().any(|word| word == "*")
    };
    for name in ["margay-agent", "margay-controller"] {
        let role: ClusterRole = one("ClusterRole", name);
        assert!(!role.rules.unwrap().iter().any(all), "{name}");
    }
}

#[test]
fn the_agent_may_watch_what_it_watches() {
    let role: ClusterRole = one("ClusterRole", "margay-agent");
    let rules = role.rules.unwrap();
    let calicos = "crd.projectcalico.org";
    for (group, resource) in [
        ("", "nodes"),
        ("", "pods"),
        ("", "namespaces"),
        ("", "services"),
        ("networking.k8s.io", "networkpolicies"),
        ("discovery.k8s.io", "endpointslices"),
        (calicos, "ippools"),
        (calicos, "blockaffinities"),
    ] {
        let has = |list: &Option<Vec<String>>, word| list.iter().flatten().any(|found| found == word);
        let for_it = rules.iter().filter(|rule| has(&rule.api_groups, group) && has(&rule.resources, resource));
        let verbs: Vec<_> = for_it.flat_map(|rule| &rule.verbs).collect();
        assert!(["list", "watch"].iter().all(|verb| verbs.iter().any(|v| v == verb)), "{resource}: {verbs:?}");
    }
}
