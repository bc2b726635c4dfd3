//! Sets the rpath, so that the binary finds libtorch without LD_LIBRARY_PATH, and builds the C++ shim.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // torch-sys tells where it found libtorch; a lean install is a folder of links, whose targets are the real place.
    let Some(view) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo:warning=torch-sys did not say where libtorch is: the binary will need LD_LIBRARY_PATH");
        return;
    };
    let real = view
        .join("libtorch_cpu.so")
        .canonicalize()
        .ok()
        .and_then(|lib| lib.parent().map(PathBuf::from))
        .unwrap_or_else(|| view.clone());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", real.display());
    compile_shim(&view);
    // GNU ld also looks for the libraries that libtorch itself needs (the wheels keep CUDA's beside torch).
    let packages = real.join("../../nvidia");
    let mut link_path = vec![real.clone()];
    if let Ok(entries) = std::fs::read_dir(&packages) {
        link_path.extend(entries.flatten().map(|entry| entry.path().join("lib")).filter(|lib| lib.is_dir()));
    }
    for folder in link_path {
        println!("cargo:rustc-link-arg=-Wl,-rpath-link,{}", folder.display());
    }
}

/// The shim is compiled against the headers that lie beside the libraries.
fn compile_shim(view: &std::path::Path) {
    println!("cargo:rerun-if-changed=src/device/shim.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .warnings(false)
        .include(view.join("../include"))
        .file("src/device/shim.cpp")
        .compile("unseeing_shim");
}
