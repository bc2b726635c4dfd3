"""The lean network in PyTorch eager, for benches/network.rs: python network_peer.py PRIOR FOLDER BATCH FORWARDS.

Prints torch's version and the largest difference from FOLDER/outputs; then, for each line on stdin, the seconds of one
forward."""

import json
import math
import struct
import sys
import time

import torch
import torch.nn.functional as F

KINDS = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


def read(path):
    """Tensors and metadata of a safetensors file."""
    data = open(path, "rb").read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = bytearray(data[8 + length :])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        flat = torch.frombuffer(body[first:last] or bytearray(1), dtype=KINDS.get(entry["dtype"], torch.uint8))
        tensors[name] = flat.reshape(entry["shape"]).float() if last > first else torch.zeros(entry["shape"])
    return tensors, metadata


class Network:
    def __init__(self, path):
        tensors, metadata = read(path)
        self.p = {key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")}
        card = json.loads(next(value for value in metadata.values() if value.startswith("{")))
        architecture = card["architecture"]
        self.config = architecture.get("lean", architecture)

    def conv(self, name, x, stride=1):
        weight = self.p[name + ".weight"]
        return F.conv2d(x, weight, self.p[name + ".bias"], stride=stride, padding=weight.shape[2] // 2)

    def linear(self, name, x):
        return F.linear(x, self.p[name + ".weight"], self.p[name + ".bias"])

    def norm(self, name, x):
        return F.group_norm(x, max(x.shape[1] // 8, 1), self.p[name + ".weight"], self.p[name + ".bias"])

    def block(self, name, x, embedding):
        h = self.conv(name + ".first", F.silu(self.norm(name + ".norm", x)))
        scale, shift = self.linear(name + ".condition", embedding).chunk(2, dim=1)
        h = F.group_norm(h, max(h.shape[1] // 8, 1))
        h = F.silu(h * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
        return self.conv(name + ".second", h) + x

    def attention(self, x):
        batch, channels, height, width = x.shape
        heads = self.config["heads"]
        qkv = self.conv("attention.qkv", self.norm("attention.norm", x))
        q, k, v = qkv.reshape(batch, 3, heads, channels // heads, height * width).unbind(1)
        weights = torch.softmax((q * (channels // heads) ** -0.5).transpose(-2, -1) @ k, dim=-1)
        return self.conv("attention.out", (v @ weights.transpose(-2, -1)).reshape(x.shape)) + x

    def forward(self, inputs, ln_sigma):
        config, levels = self.config, len(self.config["channels"])
        frequencies = [math.tau / (0.5 * 64 ** (i / 15)) for i in range(16)]
        angles = ln_sigma[:, None] * torch.tensor(frequencies)
        features = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedding = F.silu(self.linear("embed.1", F.silu(self.linear("embed.0", features))))
        h = self.conv("stem", F.pixel_unshuffle(inputs, config["unshuffle"]))
        skips = []
        for level in range(levels):
            if level:
                h = self.conv(f"level{level}.down", h, stride=2)
            for block in range(config["blocks"]):
                h = self.block(f"level{level}.encoder{block}", h, embedding)
            skips.append(h)
        if config["heads"]:
            h = self.attention(h)
        for level in reversed(range(levels)):
            if level < levels - 1:
                raised = F.interpolate(self.conv(f"level{level}.up", h), scale_factor=2, mode="nearest")
                h = self.conv(f"level{level}.join", torch.cat([raised, skips[level]], dim=1))
            for block in range(config["blocks"]):
                h = self.block(f"level{level}.decoder{block}", h, embedding)
        return F.pixel_shuffle(self.conv("head", F.silu(self.norm("norm", h))), config["unshuffle"])


@torch.no_grad()
def main():
    path, folder, batch, forwards = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(1)
    network = Network(path)
    values = lambda name: torch.frombuffer(bytearray(open(f"{folder}/{name}", "rb").read()), dtype=torch.float32)
    outputs = values("outputs")
    channels = network.p["stem.weight"].shape[1] // network.config["unshuffle"] ** 2
    pixels = values("inputs").numel() // (batch * channels)
    size = math.isqrt(pixels)
    inputs, levels = values("inputs").reshape(batch, channels, size, size), torch.full((batch,), -1.0)
    error = (network.forward(inputs, levels).flatten() - outputs).abs().max() / outputs.abs().max()
    if not error < 1e-4:
        sys.exit(f"the two networks differ by {error} of the largest value")
    print(f"{torch.__version__}, outputs differ by {error:.1e} of the largest value", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(forwards):
            network.forward(inputs, levels)
        print((time.perf_counter() - start) / forwards, flush=True)


main()
