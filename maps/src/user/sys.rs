//! The few calls of bpf(2) on maps that the handles need, in bytes. aya has no batch calls and no access to a map
//! by plain bytes; everything else (programs, links, loading) is left to aya.

use std::{
    ffi::CString,
    io, mem,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_info};

/// What the kernel says of a map (`struct bpf_map_info`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapFacts {
    /// The map's id, as bpftool has it.
    pub id: u32,
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value, on one CPU.
    pub value_size: u32,
    /// How many entries fit.
    pub max_entries: u32,
    /// Whether the kernel knows the types of key and value, so that bpftool prints field names.
    pub has_btf: bool,
}

/// All zero, which is what the kernel wants of the fields that a command does not use.
fn attr() -> bpf_attr {
    // SAFETY: a union of plain integers and arrays of them; all zero is valid for each.
    unsafe { mem::zeroed() }
}

/// bpf(2).
///
/// # Safety
/// Every pointer in `attr` that `cmd` uses must be valid for what the kernel reads or writes there.
unsafe fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole `bpf_attr`; the caller vouches for the pointers in it.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, cmd as libc::c_int, attr, size_of::<bpf_attr>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as i32) }
}

/// Opens the object that is pinned at `path`.
///
/// # Errors
/// Nothing is pinned there, or it may not be opened.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: `path` is a C string that lives past the call.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins the object behind `fd` at `path`, which must not exist.
///
/// # Errors
/// The path exists, is on no bpffs, or has a dot in its last part.
pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = fd.as_raw_fd() as u32;
    // SAFETY: `path` is a C string that lives past the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// What the kernel says of the map.
///
/// # Errors
/// `fd` is no map.
pub fn map_facts(fd: BorrowedFd<'_>) -> io::Result<MapFacts> {
    // SAFETY: plain integers; all zero is valid.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    let mut attr = attr();
    // SAFETY: writing to a field of a union of plain integers.
    let request = unsafe { &mut attr.info };
    request.bpf_fd = fd.as_raw_fd() as u32;
    request.info = (&raw mut info) as u64;
    request.info_len = size_of::<bpf_map_info>() as u32;
    // SAFETY: `info` is as long as `info_len` says and lives past the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(MapFacts {
        id: info.id,
        map_type: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        has_btf: info.btf_value_type_id != 0,
    })
}

/// One command on one element. `value` is null where the command takes none.
fn element(cmd: bpf_cmd, fd: BorrowedFd<'_>, key: *const u8, value: *mut u8) -> io::Result<()> {
    let mut attr = attr();
    // SAFETY: writing to a field of a union of plain integers.
    let request = unsafe { &mut attr.__bindgen_anon_2 };
    request.map_fd = fd.as_raw_fd() as u32;
    request.key = key as u64;
    request.__bindgen_anon_1.value = value as u64;
    // SAFETY: the callers below pass buffers of the sizes that the map has, which `Maps` has checked on opening.
    unsafe { bpf(cmd, &mut attr) }.map(drop)
}

/// Reads the value of `key` into `value`; `false` where there is none.
///
/// # Safety
/// `key` and `value` must have the map's sizes (per CPU: the value's, rounded up to 8, for each possible CPU).
///
/// # Errors
/// The kernel refused.
pub unsafe fn lookup(fd: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    found(element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, fd, key.as_ptr(), value.as_mut_ptr()))
}

/// Writes the value of `key`.
///
/// # Safety
/// `key` and `value` must have the map's sizes.
///
/// # Errors
/// The map is full, or the kernel refused.
pub unsafe fn update(fd: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    // The kernel only reads `value` here.
    element(bpf_cmd::BPF_MAP_UPDATE_ELEM, fd, key.as_ptr(), value.as_ptr().cast_mut())
}

/// Removes `key`; `false` where it was not there.
///
/// # Safety
/// `key` must have the map's size.
///
/// # Errors
/// The kernel refused.
pub unsafe fn delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    found(element(bpf_cmd::BPF_MAP_DELETE_ELEM, fd, key.as_ptr(), std::ptr::null_mut()))
}

/// Removes up to `count` keys of a hash, one after the other. Answers how many, and what the kernel refused the next one for; `NotFound`
/// if it was not there.
///
/// # Safety
/// `keys` must hold `count` keys of the map's size.
pub unsafe fn delete_batch(fd: BorrowedFd<'_>, keys: &[u8], count: u32) -> (u32, io::Result<()>) {
    let mut attr = attr();
    // SAFETY: writing to a field of a union of plain integers.
    let request = unsafe { &mut attr.batch };
    request.keys = keys.as_ptr() as u64;
    request.count = count;
    request.map_fd = fd.as_raw_fd() as u32;
    // SAFETY: the pointer lives past the call; the caller vouches for what is behind it.
    let result = unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_BATCH, &mut attr) };
    // SAFETY: the kernel has written it, also where it refused a key (kernel/bpf/syscall.c, generic_map_delete_batch).
    (unsafe { attr.batch.count }, result.map(drop))
}

/// Writes the key after `key` (`None`: the first) into `next`; `false` at the end.
///
/// # Safety
/// `key` and `next` must have the map's size.
///
/// # Errors
/// The kernel refused.
pub unsafe fn next_key(fd: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let key = key.map_or(std::ptr::null(), <[u8]>::as_ptr);
    found(element(bpf_cmd::BPF_MAP_GET_NEXT_KEY, fd, key, next.as_mut_ptr()))
}

/// "No such entry" is an answer, not a failure.
fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads up to `count` entries of a hash, beginning where `from` says (`None`: at the beginning), into `keys` and `values`. Answers
/// how many, and where to go on; `None` at the end.
///
/// # Safety
/// `keys` and `values` must have room for `count` keys and values of the map's sizes.
///
/// # Errors
/// The kernel refused; `ENOSPC` if more than `count` entries share one bucket (kernel/bpf/hashtab.c).
pub unsafe fn lookup_batch(
    fd: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<(u32, Option<u32>)> {
    let mut next = 0_u32;
    let mut attr = attr();
    // SAFETY: writing to a field of a union of plain integers.
    let request = unsafe { &mut attr.batch };
    request.in_batch = from.as_ref().map_or(0, |from| from as *const u32 as u64);
    request.out_batch = (&raw mut next) as u64;
    request.keys = keys.as_mut_ptr() as u64;
    request.values = values.as_mut_ptr() as u64;
    request.count = count;
    request.map_fd = fd.as_raw_fd() as u32;
    // SAFETY: all pointers live past the call; the caller vouches for the room behind `keys` and `values`.
    let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
    // SAFETY: the kernel has written it, also at the end.
    let got = unsafe { attr.batch.count };
    match result {
        Ok(_) => Ok((got, Some(next))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((got, None)),
        Err(e) => Err(e),
    }
}
