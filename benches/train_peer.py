"""The training step of the lean network in PyTorch eager, for benches/train.rs: forward, backward, gradient clipping, AdamW and
a moving average of the weights, on random inputs. For each line on standard input it prints the seconds of one step."""

import copy
import importlib.util
import pathlib
import sys
import time

import torch


def peer():
    """network_peer.py without its main, which runs at its end."""
    path = pathlib.Path(__file__).with_name("network_peer.py")
    source = path.read_text()
    end = source.rindex("\nmain()")
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("network_peer", None))
    exec(compile(source[:end], str(path), "exec"), module.__dict__)
    return module


def main():
    path, batch, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    network = peer().Network(path)
    for name, value in network.p.items():
        network.p[name] = torch.nn.Parameter(value.float().clone())
    parameters = list(network.p.values())
    average = [copy.deepcopy(value.detach()) for value in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01)
    channels = network.p["stem.weight"].shape[1] // network.config["unshuffle"] ** 2
    outputs = network.p["head.weight"].shape[0] // network.config["unshuffle"] ** 2
    size = 64
    inputs, target = torch.randn(batch, channels, size, size), torch.randn(batch, outputs, size, size)
    levels = torch.full((batch,), -1.0)

    def step():
        optimizer.zero_grad()
        loss = (network.forward(inputs, levels) - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-3)
        return loss.item()

    step()
    print(torch.__version__, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        print((time.perf_counter() - start) / steps, flush=True)


main()
