//! Words at once: the compiler would make loops over bytes, and call them.

use zerocopy::IntoBytes;

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

/// Copies `T`, which is whole words of type `W`, word by word.
#[inline(always)]
pub fn copy<W: Copy, T: IntoBytes + Copy>(to: &mut T, from: &T) {
    const { assert!(align_of::<T>() >= align_of::<W>() && size_of::<T>().is_multiple_of(size_of::<W>())) };
    let (to, from): (*mut W, *const W) = ((to as *mut T).cast(), (from as *const T).cast());
    for i in 0..size_of::<T>() / size_of::<W>() {
        // SAFETY: within both, aligned as asserted; without padding (`IntoBytes`), and the copy of a valid `T` is one.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
    }
}
