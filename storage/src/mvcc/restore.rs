//! Boot: the index from the rows.
