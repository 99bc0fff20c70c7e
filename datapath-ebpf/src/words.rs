//! Four bytes at once: the compiler would make loops over bytes, and call them.

use margay_maps::Endpoint;

/// Four bytes as a word of memory.
#[inline(always)]
pub fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// Whether they are the same.
#[inline(always)]
pub fn same(a: [u8; 4], b: [u8; 4]) -> bool {
    word(a) == word(b)
}

/// Copies what a map says of an address.
#[inline(always)]
pub fn copy_endpoint(to: &mut Endpoint, from: &Endpoint) {
    let (to, from): (*mut u32, *const u32) = ((to as *mut Endpoint).cast(), (from as *const Endpoint).cast());
    for i in 0..size_of::<Endpoint>() / 4 {
        // SAFETY: within both, whose alignment is a word's of four bytes, and size a multiple of it.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}
