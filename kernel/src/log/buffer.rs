//! The log's memory: records one after the other in a ring of bytes, the oldest overwritten.

/// Bytes of the ring.
const LEN: usize = 1 << 15;
/// Longest text of a record; the rest is cut off.
pub const TEXT_MAX: usize = 480;
/// Bytes before a record's text: length (2), priority (1), unused (1), time (8).
const HEAD: usize = 12;

/// One message, as readers get it: a copy without heap, since the heap's lock stands above the log's.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Sequence number: 0, 1, 2, … since boot.
    pub seq: u64,
    /// Syslog priority: facility * 8 + level.
    pub priority: u8,
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    len: usize,
    bytes: [u8; TEXT_MAX],
}

impl Record {
    /// A record of `text`, which is cut at its longest.
    pub fn new(seq: u64, priority: u8, time_ns: u64, text: &[u8]) -> Record {
        let len = text.len().min(TEXT_MAX);
        let mut bytes = [0; TEXT_MAX];
        bytes[..len].copy_from_slice(&text[..len]);
        Record { seq, priority, time_ns, len, bytes }
    }

    /// The message, without a newline at the end.
    pub fn text(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The ring.
///
/// # Invariants
/// Whole records lie between the absolute counts `head` and `tail`; they are `first..next` by sequence number.
pub struct Buffer {
    bytes: [u8; LEN],
    head: usize,
    tail: usize,
    first: u64,
    next: u64,
    /// Sequence number before which SYSLOG_ACTION_READ_ALL shows nothing (SYSLOG_ACTION_CLEAR).
    pub cleared: u64,
    /// Next record of SYSLOG_ACTION_READ.
    pub unread: u64,
}

impl Buffer {
    /// An empty log.
    pub const fn new() -> Self {
        Self { bytes: [0; LEN], head: 0, tail: 0, first: 0, next: 0, cleared: 0, unread: 0 }
    }

    /// Sequence numbers kept.
    pub fn range(&self) -> core::ops::Range<u64> {
        self.first..self.next
    }

    /// Adds a record at the end.
    pub fn append(&mut self, priority: u8, time_ns: u64, text: &[u8]) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = &text[..text.len().min(TEXT_MAX)];
        while LEN - (self.tail - self.head) < HEAD + text.len() {
            self.head += HEAD + self.text_len(self.head);
            self.first += 1;
        }
        let mut head = [0; HEAD];
        head[..2].copy_from_slice(&(text.len() as u16).to_le_bytes());
        head[2] = priority;
        head[4..].copy_from_slice(&time_ns.to_le_bytes());
        self.store(&head);
        self.store(text);
        self.next += 1;
    }

    /// The first record kept with a sequence number of at least `seq`. Walks from the oldest.
    pub fn record_from(&self, seq: u64) -> Option<Record> {
        let seq = seq.max(self.first);
        if seq >= self.next {
            return None;
        }
        let mut at = self.head;
        for _ in self.first..seq {
            at += HEAD + self.text_len(at);
        }
        let time = core::array::from_fn(|i| self.byte(at + 4 + i));
        let mut record = Record::new(seq, self.byte(at + 2), u64::from_le_bytes(time), &[]);
        record.len = self.text_len(at).min(TEXT_MAX);
        for (index, byte) in record.bytes.iter_mut().take(record.len).enumerate() {
            *byte = self.byte(at + HEAD + index);
        }
        Some(record)
    }

    fn text_len(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(at), self.byte(at + 1)]))
    }

    fn byte(&self, at: usize) -> u8 {
        self.bytes[at % LEN]
    }

    fn store(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.bytes[self.tail % LEN] = *byte;
            self.tail += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_and_old_ones_go() {
        let mut buffer = Buffer::new();
        for round in 0..1000u64 {
            buffer.append(6, round, std::format!("message {round} {}\n", "x".repeat(round as usize % 300)).as_bytes());
        }
        let range = buffer.range();
        assert_eq!(range.end, 1000);
        assert!(range.start > 0);
        let mut seq = 0;
        let mut seen = 0;
        while let Some(record) = buffer.record_from(seq) {
            assert_eq!(record.time_ns, record.seq);
            assert!(record.text().starts_with(std::format!("message {} ", record.seq).as_bytes()));
            seq = record.seq + 1;
            seen += 1;
        }
        assert_eq!(seen, range.end - range.start);
    }

    #[test]
    fn long_texts_are_cut() {
        let mut buffer = Buffer::new();
        buffer.append(3, 0, &[b'a'; 5000]);
        assert_eq!(buffer.record_from(0).map(|record| record.text().len()), Some(TEXT_MAX));
    }
}
