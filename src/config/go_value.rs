//! Values in the syntax of Go.
