//! Guest address spaces.
