//! Objects as Calico writes them, and the definitions in `deploy/crds`.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

#[test]
fn the_definitions_in_deploy_are_what_the_types_generate() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/crds");
    let write = std::env::var_os("MARGAY_WRITE_CRDS").is_some();
    for (name, wanted) in manifests().unwrap() {
        let file = dir.join(&name);
        if write {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&file, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == wanted, "{name} is old: MARGAY_WRITE_CRDS=1 cargo test -p margay --lib crd rewrites it");
    }
    let files =
        std::fs::read_dir(&dir).unwrap().filter(|f| f.as_ref().is_ok_and(|f| f.file_name() != "kustomization.yaml"));
    assert_eq!(files.count(), definitions().len(), "a file too many in {}", dir.display());
}

fn schema(plural: &str) -> Value {
    let crd = definitions().into_iter().find(|crd| crd.spec.names.plural == plural).unwrap();
    let version = &crd.spec.versions[0];
    assert!(version.served && version.storage && version.name == "v1" && crd.spec.scope == "Cluster");
    assert_eq!(crd.metadata.name.as_deref(), Some(format!("{plural}.crd.projectcalico.org").as_str()));
    serde_json::to_value(version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap()).unwrap()
}

/// What Calico's definitions (libcalico-go, config/crd) name in each spec: types, and what must be there.
#[test]
fn the_schemas_have_calicos_fields_and_ask_for_no_more_than_calico_writes() {
    for (plural, required, fields) in [
        (
            "blockaffinities",
            vec!["cidr", "deleted", "node", "state"],
            vec![
                ("cidr", "string"),
                ("deleted", "string"),
                ("node", "string"),
                ("state", "string"),
                ("type", "string"),
            ],
        ),
        (
            "clusterinformations",
            vec![],
            vec![
                ("calicoVersion", "string"),
                ("clusterGUID", "string"),
                ("clusterType", "string"),
                ("datastoreReady", "boolean"),
                ("variant", "string"),
            ],
        ),
        (
            "ipamblocks",
            vec!["allocations", "attributes", "cidr", "unallocated"],
            vec![
                ("affinity", "string"),
                ("affinityClaimTime", "string"),
                ("allocations", "array"),
                ("attributes", "array"),
                ("cidr", "string"),
                ("deleted", "boolean"),
                ("sequenceNumber", "integer"),
                ("sequenceNumberForAllocation", "object"),
                ("strictAffinity", "boolean"),
                ("unallocated", "array"),
            ],
        ),
        (
            "ipamhandles",
            vec!["block", "handleID"],
            vec![("block", "object"), ("deleted", "boolean"), ("handleID", "string")],
        ),
        (
            "ipamconfigs",
            vec!["autoAllocateBlocks", "strictAffinity"],
            vec![("autoAllocateBlocks", "boolean"), ("maxBlocksPerHost", "integer"), ("strictAffinity", "boolean")],
        ),
        (
            "ippools",
            vec!["cidr"],
            vec![
                ("allowedUses", "array"),
                ("assignmentMode", "string"),
                ("blockSize", "integer"),
                ("cidr", "string"),
                ("disableBGPExport", "boolean"),
                ("disabled", "boolean"),
                ("ipipMode", "string"),
                ("namespaceSelector", "string"),
                ("natOutgoing", "boolean"),
                ("nodeSelector", "string"),
                ("vxlanMode", "string"),
            ],
        ),
        ("ipreservations", vec![], vec![("reservedCIDRs", "array")]),
    ] {
        let schema = schema(plural);
        let spec = &schema["properties"]["spec"];
        let found: Vec<&str> = spec["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert_eq!(found, required, "{plural}");
        let properties = spec["properties"].as_object().unwrap();
        let mut found: Vec<_> =
            properties.iter().map(|(name, p)| (name.as_str(), p["type"].as_str().unwrap())).collect();
        found.sort_unstable();
        assert_eq!(found, fields, "{plural}");
        assert!(!schema.to_string().contains("\"default\""), "{plural}: the API server would write defaults");
    }
    let block = schema("ipamblocks");
    assert_eq!(block["properties"]["spec"]["properties"]["allocations"]["items"]["nullable"], true);
}

/// A block with every field that Calico writes, and one of a version to come.
fn calicos_block() -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlock",
        "metadata": {"name": "10-244-0-0-30", "resourceVersion": "7"},
        "spec": {
            "affinity": "host:node-a",
            "affinityClaimTime": "2026-01-02T03:04:05Z",
            "allocations": [0, null, 1, null],
            "attributes": [
                {"handle_id": "k8s-pod-network.c0ffee", "secondary": {
                    "namespace": "shop", "node": "node-a", "pod": "web", "timestamp": "2026-01-02 03:04:05.6 +0000 UTC"}},
                {"releasedAt": "2026-01-02T03:04:05Z"},
            ],
            "cidr": "10.244.0.0/30",
            "deleted": false,
            "inventedLater": {"a": [1]},
            "sequenceNumber": 1_767_323_045_000_000_001_u64,
            "sequenceNumberForAllocation": {"0": 1_767_323_045_000_000_000_u64},
            "strictAffinity": false,
            "unallocated": [3, 1],
        },
    })
}

#[test]
fn a_block_of_calicos_is_written_back_as_it_was() {
    let block: IpamBlock = serde_json::from_value(calicos_block()).unwrap();
    assert_eq!(block.spec.allocations, [Some(0), None, Some(1), None]);
    assert_eq!(block.spec.attributes[0].handle.as_deref(), Some("k8s-pod-network.c0ffee"));
    assert_eq!(serde_json::to_value(&block).unwrap(), calicos_block());
}

#[test]
fn nothing_and_null_are_the_same_in_lists() {
    let spec = json!({"cidr": "10.0.0.0/30", "allocations": [null], "unallocated": null, "attributes": null,
                      "sequenceNumberForAllocation": null});
    let spec: IpamBlockSpec = serde_json::from_value(spec).unwrap();
    assert!(spec.unallocated.is_empty() && spec.attributes.is_empty() && spec.sequence_number == 0);
}

#[test]
fn affinities_are_named_and_labelled_as_calicos() {
    let affinity = BlockAffinity::of("node-a", "10.244.0.64/26".parse().unwrap(), AffinityState::Pending);
    assert_eq!(
        serde_json::to_value(&affinity).unwrap(),
        json!({
            "apiVersion": "crd.projectcalico.org/v1",
            "kind": "BlockAffinity",
            "metadata": {
                "name": "node-a-10-244-0-64-26",
                "labels": {
                    "projectcalico.org/affinity-type": "host",
                    // printf node-a | openssl dgst -sha3-256 -binary | base32
                    "projectcalico.org/hostname-hash": "PY3TQE2E3XMTETLM2MJO3UITKPFB27YUJ4T4E5XGPEJON3SM4QAA",
                    "projectcalico.org/ip-version": "4",
                },
            },
            "spec": {"cidr": "10.244.0.64/26", "deleted": "false", "node": "node-a", "state": "pending", "type": "host"},
        })
    );
    assert!(!affinity.spec.is_confirmed());
}

#[test]
fn names_follow_from_blocks_and_nodes() {
    assert_eq!(names::block("10.244.0.0/26".parse().unwrap()), "10-244-0-0-26");
    assert_eq!(names::block("fd00:10:244::40/122".parse().unwrap()), "fd00-10-244--40-122");
    assert_eq!(names::handle("k8s-pod-network.C0FFEE"), "k8s-pod-network.c0ffee");

    let block = "10.244.0.0/26".parse().unwrap();
    let just_short_enough = "n".repeat(252 - "-10-244-0-0-26".len());
    assert_eq!(names::affinity(&just_short_enough, block), format!("{just_short_enough}-10-244-0-0-26"));
    let too_long = "n".repeat(253);
    let name = names::affinity(&too_long, block);
    assert_eq!(name.len(), 252);
    // printf '%s+10-244-0-0-26' "$node" | sha256sum
    assert!(name.ends_with("n-10-244-0-0-26-140d4672242"), "{name}");
    assert_ne!(name, names::affinity(&"n".repeat(252), block));
}
