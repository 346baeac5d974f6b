//! Length-prefixed messages cut out of the DATA of a stream.
