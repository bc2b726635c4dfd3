//! The one integration-test binary: tests of the real program, and of its parts together.

#[path = "suite/import.rs"]
mod import;
#[path = "suite/products.rs"]
mod products;
