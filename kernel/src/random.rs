//! The generator behind getrandom(2), `/dev/random`, `/dev/urandom`, `AT_RANDOM` and kernel identifiers.
//!
//! ChaCha20 (RFC 8439) with fast key erasure: every refill makes a block run, of which the first 32 bytes become the
//! next key before any other byte is given out, so a later look at the state does not reveal earlier output. Seeded
//! once at boot from the machine; guests may stir bytes in (`/dev/random` writes), which can only add uncertainty.
//!
//! Locks: [`STATE`] alone, never held while user memory is touched.

use umbel_smp::lock::{Rank, SpinLock};

static STATE: SpinLock<Generator> = SpinLock::new(Rank::Leaf, Generator::unseeded());

/// Sets the key. Called once at boot, before the first task.
pub fn seed(bytes: &[u8; 32]) {
    STATE.lock().stir(bytes);
}

/// Mixes bytes from a guest into the key.
pub fn stir(bytes: &[u8]) {
    let mut state = STATE.lock();
    for chunk in bytes.chunks(32) {
        let mut block = [0; 32];
        block[..chunk.len()].copy_from_slice(chunk);
        state.stir(&block);
    }
}

/// Fills `out`.
pub fn fill(out: &mut [u8]) {
    STATE.lock().fill(out);
}

/// A random word.
pub fn next_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// 16 random bytes, as AT_RANDOM has them.
pub fn bytes16() -> [u8; 16] {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    bytes
}

/// A UUID of version 4 in its text form, without a newline.
pub fn uuid() -> [u8; 36] {
    format_uuid(bytes16())
}

fn format_uuid(mut raw: [u8; 16]) -> [u8; 36] {
    raw[6] = raw[6] & 0x0f | 0x40;
    raw[8] = raw[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in raw.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = hex(byte >> 4);
        text[at + 1] = hex(byte & 15);
        at += 2;
    }
    text
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}

struct Generator {
    key: [u32; 8],
    counter: u64,
}

impl Generator {
    const fn unseeded() -> Self {
        Self { key: [0; 8], counter: 0 }
    }

    fn stir(&mut self, bytes: &[u8; 32]) {
        for (word, chunk) in self.key.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word ^= u32::from_le_bytes(*chunk);
        }
        self.erase_key();
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(64) {
            let block = self.next_block();
            for (word, bytes) in block.iter().zip(chunk.chunks_mut(4)) {
                bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
            }
        }
        self.erase_key();
    }

    fn erase_key(&mut self) {
        let block = self.next_block();
        self.key.copy_from_slice(&block[..8]);
    }

    fn next_block(&mut self) -> [u32; 16] {
        self.counter = self.counter.wrapping_add(1);
        let nonce = [self.counter as u32, (self.counter >> 32) as u32, 0, 0];
        chacha20(&self.key, &nonce)
    }
}

/// One block: `tail` is the counter and the nonce.
fn chacha20(key: &[u32; 8], tail: &[u32; 4]) -> [u32; 16] {
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    start[4..12].copy_from_slice(key);
    start[12..].copy_from_slice(tail);
    let mut state = start;
    for _ in 0..10 {
        for column in 0..4 {
            quarter(&mut state, column, column + 4, column + 8, column + 12);
        }
        for diagonal in 0..4 {
            quarter(&mut state, diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4);
        }
    }
    for (word, first) in state.iter_mut().zip(start) {
        *word = word.wrapping_add(first);
    }
    state
}

fn quarter(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (turn_d, turn_b) in [(16, 12), (8, 7)] {
        s[a] = s[a].wrapping_add(s[b]);
        s[d] = (s[d] ^ s[a]).rotate_left(turn_d);
        s[c] = s[c].wrapping_add(s[d]);
        s[b] = (s[b] ^ s[c]).rotate_left(turn_b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chacha20_gives_the_block_of_the_rfc() {
        // RFC 8439, 2.3.2.
        let key: [u32; 8] = core::array::from_fn(|i| {
            let first = 4 * i as u32;
            first | (first + 1) << 8 | (first + 2) << 16 | (first + 3) << 24
        });
        let block = chacha20(&key, &[1, 0x0900_0000, 0x4a00_0000, 0]);
        assert_eq!(block[..4], [0xe4e7_f110, 0x1559_3bd1, 0x1fdd_0f50, 0xc471_20a3]);
        assert_eq!(block[12..], [0xd19c_12b5, 0xb94e_16de, 0xe883_d0cb, 0x4e3c_50a2]);
    }

    #[test]
    fn no_output_repeats_and_the_key_moves_on() {
        let mut generator = Generator::unseeded();
        generator.stir(&[3; 32]);
        let key = generator.key;
        let (mut first, mut second) = ([0u8; 100], [0u8; 100]);
        generator.fill(&mut first);
        generator.fill(&mut second);
        assert_ne!(first, second);
        assert_ne!(key, generator.key);
        assert!(first[64..].iter().any(|b| *b != 0));
    }

    #[test]
    fn uuids_have_version_and_variant() {
        let text = format_uuid([0xff; 16]);
        assert_eq!(&text, b"ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
