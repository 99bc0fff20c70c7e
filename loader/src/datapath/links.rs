//! What the kernel says of a pinned TCX link. aya knows the link's program, but not its interface.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info};
use margay_maps::user::sys;

/// A pinned link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// The program that is attached by it.
    pub program_id: u32,
    /// The interface; 0 when that is gone, or the link was detached by hand.
    pub ifindex: u32,
}

/// What is pinned at `path`; `None` where nothing is.
///
/// # Errors
/// What is pinned there is no link, or may not be read.
pub fn facts(path: &Path) -> io::Result<Option<LinkFacts>> {
    match sys::open_pin(path) {
        Ok(fd) => link_facts(fd.as_fd()).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn link_facts(fd: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    // SAFETY: unions and structs of plain integers; all zero is valid.
    let (mut info, mut attr): (bpf_link_info, bpf_attr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    // SAFETY: writing to a field of a union of plain integers.
    let request = unsafe { &mut attr.info };
    request.bpf_fd = fd.as_raw_fd() as u32;
    request.info = (&raw mut info) as u64;
    request.info_len = size_of::<bpf_link_info>() as u32;
    // SAFETY: `attr` is whole; `info` is as long as `info_len` says and lives past the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_OBJ_GET_INFO_BY_FD as libc::c_int,
            &raw mut attr,
            size_of::<bpf_attr>(),
        )
    };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every variant is plain integers; only TCX links are pinned in our directory.
    let tcx = unsafe { info.__bindgen_anon_1.tcx };
    Ok(LinkFacts { program_id: info.prog_id, ifindex: tcx.ifindex })
}
