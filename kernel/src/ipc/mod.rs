//! Pipes and other channels between processes.
