//! System calls: the table, dispatch, and one file per family.
