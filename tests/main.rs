//! The one integration-test binary: tests of the real program, and of its parts together.

#[path = "suite/products.rs"]
mod products;

#[path = "suite/simulate.rs"]
mod simulate;
