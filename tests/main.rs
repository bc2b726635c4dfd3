//! The one integration-test binary: tests of the real program, and of its parts together.

#[path = "suite/prior.rs"]
mod prior;
#[path = "suite/products.rs"]
mod products;
