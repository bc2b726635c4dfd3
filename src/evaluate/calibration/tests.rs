//! Tests of the harness as a whole.
