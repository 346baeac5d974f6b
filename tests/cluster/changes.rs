//! Members that come, go and change.
