//! The command line. `main` is a match on the command; everything else is in the library.

fn main() {
    std::process::exit(unseeing::cli::main());
}
