//! Guest address spaces.

/// What mmap(2) maps.
pub trait Mappable: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
}
