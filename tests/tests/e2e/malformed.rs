//! Odd and broken packets: carried on or dropped for a reason, never passed on blindly, and never the end of anything.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use margay_lab::{
    Lab, LabBuilder, Place,
    netlink::Netlink,
    observe::eventually,
    probe::{
        ANSWER, Capture, Sender,
        packet::{self, Ipv4},
        send_frame,
    },
    wiring::DEVICE,
};
use margay_maps::{DropReason, Hook, Mac};

const MARK: &[u8] = b"an odd packet of a test of margay";

fn two_nodes(name: &str) -> LabBuilder {
    Lab::builder(name).node("a").node("b").pod("x").on("a").pod("near").on("a").pod("far").on("b")
}

fn marked(frame: &[u8]) -> bool {
    frame.windows(MARK.len()).any(|w| w == MARK)
}

/// Sends a frame from pod x to its gateway.
fn send(lab: &Lab, ether_type: u16, payload: &[u8]) -> Result<()> {
    let x = lab.pod("x")?;
    let mac = Netlink::open(&x.namespace)?.mac(DEVICE)?;
    send_frame(&x.namespace, DEVICE, &packet::ethernet(Mac::GATEWAY, mac, ether_type, payload))
}

/// A good packet from x to another, to be spoilt.
fn good(lab: &Lab, to: &Place) -> Result<Vec<u8>> {
    Ok(Ipv4::new(lab.pod("x")?.address, to.address, packet::UDP, &packet::udp(1, 9, MARK)).bytes())
}

#[test]
fn what_is_not_ipv4_is_dropped_for_what_it_is() {
    two_nodes("odd_types").test(|lab| {
        let ip = good(lab, &lab.pod("far")?)?;
        let tagged = [&[0, 5][..], &packet::ETH_IPV4.to_be_bytes(), &ip].concat();
        let mut ipv6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        ipv6.resize(48, 0);
        let cases = [
            (packet::ETH_VLAN, &tagged, DropReason::VlanTagged),
            (packet::ETH_IPV6, &ipv6, DropReason::Ipv6NotSupported),
            // LLDP.
            (0x88cc, &ip, DropReason::UnknownEtherType),
        ];
        let mut seen = Capture::start(&lab.pod("far")?.namespace, DEVICE)?;
        for (ether_type, payload, reason) in cases {
            lab.drops_with("a", reason, || send(lab, ether_type, payload))?;
        }
        ensure!(seen.wait_for(Duration::from_millis(100), marked)?.is_none());
        lab.everything_reaches_everything()
    });
}

#[test]
fn broken_headers_are_dropped_for_what_is_wrong() {
    two_nodes("odd_headers").test(|lab| {
        let good = good(lab, &lab.pod("far")?)?;
        let spoilt = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        let cases = [
            ("cut inside the header", good[..12].to_vec(), DropReason::TruncatedIp),
            ("cut behind the header", good[..24].to_vec(), DropReason::ShortIp),
            ("version 5", spoilt(0, 0x55), DropReason::MalformedIp),
            ("a header of 16 bytes", spoilt(0, 0x44), DropReason::MalformedIp),
            (
                "a total length of 3",
                {
                    let mut packet = spoilt(2, 0);
                    packet[3] = 3;
                    packet
                },
                DropReason::MalformedIp,
            ),
        ];
        for (what, packet, reason) in cases {
            lab.drops_with("a", reason, || send(lab, packet::ETH_IPV4, &packet)).context(what)?;
        }
        lab.everything_reaches_everything()
    });
}

#[test]
fn groups_and_the_unassigned_are_dropped() {
    two_nodes("odd_targets").test(|lab| {
        let x = lab.pod("x")?.address;
        let to = |address: [u8; 4]| Ipv4::new(x, address.into(), packet::UDP, &packet::udp(1, 9, MARK)).bytes();
        let cases = [
            ([224, 0, 0, 251], DropReason::NotUnicast),
            ([255, 255, 255, 255], DropReason::NotUnicast),
            ([127, 0, 0, 1], DropReason::NotUnicast),
            // In a's own block, and nobody's.
            ([10, 244, 0, 250], DropReason::NoEndpoint),
        ];
        for (address, reason) in cases {
            lab.drops_with("a", reason, || send(lab, packet::ETH_IPV4, &to(address)))
                .with_context(|| format!("to {}", Ipv4Addr::from(address)))?;
        }
        Ok(())
    });
}

#[test]
fn options_reach_the_other_side() {
    two_nodes("odd_options").test(|lab| {
        let x = lab.pod("x")?.address;
        for (to, ttl) in [(lab.pod("near")?, 63), (lab.pod("far")?, 62)] {
            let mut seen = Capture::start(&to.namespace, DEVICE)?;
            let datagram = packet::udp(1, 9, MARK);
            // No operation, three times, and the end of the list (RFC 791, section 3.1).
            let ip = Ipv4 { options: &[1, 1, 1, 0], ..Ipv4::new(x, to.address, packet::UDP, &datagram) };
            send(lab, packet::ETH_IPV4, &ip.bytes())?;
            let frame = seen.wait_for(ANSWER, marked)?.with_context(|| format!("{to} saw nothing"))?;
            ensure!(frame[14] == 0x46, "{to}: the options are gone");
            ensure!(frame[22] == ttl, "{to}: the TTL is {}, not {ttl}", frame[22]);
            ensure!(packet::checksum(&frame[14..38]) == 0, "{to}: the checksum is wrong");
        }
        Ok(())
    });
}

/// Fragments go their way one by one, also those that have no ports, and in any order.
#[test]
fn fragments_reach_the_other_side() {
    two_nodes("odd_fragments").test(|lab| {
        let x = lab.pod("x")?.address;
        for (id, to) in [(1, lab.pod("near")?), (2, lab.pod("far")?)] {
            let mut seen = Capture::start(&to.namespace, DEVICE)?;
            let datagram = packet::udp(1, 9, &[MARK, &[b'.'; 40], MARK].concat());
            let (first, later) = datagram.split_at(48);
            let ip =
                |fragment, payload| Ipv4 { id, fragment, ..Ipv4::new(x, to.address, packet::UDP, payload) }.bytes();
            send(lab, packet::ETH_IPV4, &ip(48 / 8, later))?;
            send(lab, packet::ETH_IPV4, &ip(packet::MORE_FRAGMENTS, first))?;
            for offset in [48_u16 / 8, packet::MORE_FRAGMENTS] {
                let is_it = |f: &[u8]| f.len() > 34 && f[12..14] == [8, 0] && f[20..22] == offset.to_be_bytes();
                ensure!(seen.wait_for(ANSWER, is_it)?.is_some(), "{to} did not see the fragment {offset:#06x}");
            }
        }
        Ok(())
    });
}

/// How many packets a hook has counted, whatever became of them.
fn counted(lab: &Lab, hook: Hook) -> Result<u64> {
    let status = lab.margay_json("a", "status")?;
    let rows = status["hooks"].as_array().context("status lists the hooks")?;
    Ok(rows.iter().filter(|row| row["hook"] == hook.name()).filter_map(|row| row["packets"].as_u64()).sum())
}

/// Noise, and packets that are good but for one byte: each is counted once, and everything goes on.
#[test]
fn noise_does_no_harm() {
    const FRAMES: u64 = 2_000;
    two_nodes("odd_noise").test(|lab| {
        let x = lab.pod("x")?;
        let mac = Netlink::open(&x.namespace)?.mac(DEVICE)?;
        let good = packet::ethernet(Mac::GATEWAY, mac, packet::ETH_IPV4, &good(lab, &lab.pod("far")?)?);
        // A linear congruential generator: the same noise in every run.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let mut sender = Sender::open(&x.namespace, DEVICE)?;
        let before = counted(lab, Hook::FromWorkload)?;
        for i in 0..FRAMES {
            let mut frame = good.clone();
            if i % 2 == 0 {
                frame.truncate(14 + random() % (frame.len() - 14));
                frame.iter_mut().skip(12).for_each(|byte| *byte = random() as u8);
            }
            let at = 12 + random() % (frame.len() - 12);
            frame[at] = random() as u8;
            sender.send(&frame)?;
        }
        eventually("every frame is counted", ANSWER, || {
            let counted = counted(lab, Hook::FromWorkload)? - before;
            ensure!(counted >= FRAMES, "{counted} of {FRAMES}");
            Ok(())
        })?;
        lab.no_complaints()?;
        lab.everything_reaches_everything()
    });
}
