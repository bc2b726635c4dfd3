// The switches of libtorch that its C interface lacks: precision and determinism, and what this build of it is.
// Only ATen/Context.h and small headers are included, so that this compiles in seconds. No exception may cross into
// Rust: every function catches, and answers a number or text of its own.

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <cstring>
#include <string>
#include <torch/headeronly/version.h>

namespace {
// Copies `text` into `out` (of `size` bytes, always terminated) and returns 0, or 1 if it had to be cut.
int put(const std::string &text, char *out, size_t size) {
  size_t length = text.size() < size ? text.size() : size - 1;
  std::memcpy(out, text.data(), length);
  out[length] = 0;
  return length == text.size() ? 0 : 1;
}
} // namespace

extern "C" {

// Full f32 precision unless `allow_tf32`, no autotuning, and deterministic algorithms or an exception.
int unseeing_set_precision(int allow_tf32) {
  try {
    auto &context = at::globalContext();
    context.setAllowTF32CuBLAS(allow_tf32 != 0);
    context.setAllowTF32CuDNN(allow_tf32 != 0);
    context.setBenchmarkCuDNN(false);
    context.setDeterministicCuDNN(true);
    context.setDeterministicAlgorithms(true, /*warn_only=*/false);
    // Else every new tensor is filled with NaN first, which costs and changes nothing here.
    context.setDeterministicFillUninitializedMemory(false);
    return 0;
  } catch (...) {
    return 1;
  }
}

// From here on the calling thread's products and convolutions on that kind of device are made of bf16 numbers (1), of f16
// numbers (2), or no longer of either (0). The copies of weights that were made for it are then forgotten, since the weights
// will change.
int unseeing_half(int cuda, int which) {
  try {
    auto kind = cuda ? at::kCUDA : at::kCPU;
    if (which) at::autocast::set_autocast_dtype(kind, which == 2 ? at::kHalf : at::kBFloat16);
    at::autocast::set_autocast_enabled(kind, which != 0);
    if (which)
      at::autocast::increment_nesting();
    else if (at::autocast::decrement_nesting() == 0)
      at::autocast::clear_cache();
    return 0;
  } catch (...) {
    return 1;
  }
}

// Threads of one operation on the calling thread, and of the pool between operations. Returns what libtorch then says
// for the first, or -1. The pool can be set only once in a process: a second, different wish is ignored.
int unseeing_set_threads(int threads) {
  try {
    // A thread takes over the process's last number at its first use of libtorch: let that happen before, not after.
    at::get_num_threads();
    at::set_num_threads(threads);
    try {
      if (at::get_num_interop_threads() != 1) at::set_num_interop_threads(1);
    } catch (...) {
    }
    return at::get_num_threads();
  } catch (...) {
    return -1;
  }
}

// What libtorch is: 0 its version, 1 its CPU capability, 2 MKL's version, 3 oneDNN's version, 4 its parallel settings,
// 5 its build settings.
int unseeing_describe(int what, char *out, size_t size) {
  try {
    switch (what) {
    case 0: return put(TORCH_VERSION, out, size);
    case 1: return put(at::get_cpu_capability(), out, size);
    case 2: return put(at::get_mkl_version(), out, size);
    case 3: return put(at::get_mkldnn_version(), out, size);
    case 4: return put(at::get_parallel_info(), out, size);
    case 5: return put(at::show_config(), out, size);
    default: return 1;
    }
  } catch (...) {
    return 1;
  }
}
}
