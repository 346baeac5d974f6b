//! A counted, structurally shared B-tree.
