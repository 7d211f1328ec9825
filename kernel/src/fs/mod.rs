//! The virtual file system and its file systems.
