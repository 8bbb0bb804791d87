"""The same training in eager PyTorch, as people write it: the peer of the training benchmark.

A pre-activation CIFAR ResNet with DoReFa weights and activations (arXiv 1606.06160, scaled back by the largest weight),
NCHW, torch.optim.SGD, crop and flip on whole batches, optionally taught by another network (arXiv 1503.02531). Prints one
JSON object. Without --data it trains on random images and says the training images per second of one epoch after a
warm-up; with it, it trains on CIFAR-10, evaluates after each epoch and says the last test accuracy: with --out the network
is kept, with --teacher-file one that was kept before is the teacher. --channels-last, with tcmalloc preloaded, is the best
that tuning gets out of it.
"""
import argparse
import json
import pathlib
import time

import numpy

import torch
from torch import nn
from torch.nn import functional


class RoundStraightThrough(torch.autograd.Function):
    """Rounds to k bits on [0, 1]; the gradient passes unchanged."""

    @staticmethod
    def forward(_, x, bits):
        levels = 2.0 ** bits - 1
        return torch.sign(x) if bits == 1 else torch.round(x * levels) / levels

    @staticmethod
    def backward(_, gradient):
        return gradient, None


def quantized_weight(w, bits):
    if bits == 32:
        return w
    if bits == 1:
        scale = w.abs().mean().detach()
        return RoundStraightThrough.apply(w / scale, 1) * scale
    t = torch.tanh(w)
    largest = t.abs().max().detach()
    return largest * (2 * RoundStraightThrough.apply(t / (2 * largest) + 0.5, bits) - 1)


def quantized_activation(x, bits):
    return x if bits == 32 else RoundStraightThrough.apply(torch.clamp(x, 0, 1), bits)


class Convolution(nn.Conv2d):
    def __init__(self, bits, inputs, outputs, stride):
        super().__init__(inputs, outputs, 3, stride, 1, bias=False)
        self.bits = bits

    def forward(self, x):
        return functional.conv2d(x, quantized_weight(self.weight, self.bits), None, self.stride, self.padding)


class Block(nn.Module):
    def __init__(self, bits, inputs, outputs, stride):
        super().__init__()
        self.bits = bits
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), Convolution(bits, inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), Convolution(bits, outputs, outputs, 1)
        self.shortcut = None if stride == 1 and inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = quantized_activation(functional.relu(self.bn1(x)), self.bits)
        skip = x if self.shortcut is None else self.shortcut(y)
        y = quantized_activation(functional.relu(self.bn2(self.conv1(y))), self.bits)
        return self.conv2(y) + skip


class ResNet(nn.Module):
    def __init__(self, depth, bits):
        super().__init__()
        blocks, layers, inputs = (depth - 2) // 6, [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
        for outputs in (16, 32, 64):
            for i in range(blocks):
                layers.append(Block(bits, inputs, outputs, 2 if outputs != 16 and i == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(64), nn.ReLU())
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def augmented(images):
    """Pad-4 crop and flip of a batch of uint8 images (N,3,32,32); float (N,3,32,32)."""
    n = len(images)
    padded = functional.pad(images, (4, 4, 4, 4))
    rows = (torch.randint(0, 9, (n, 1)) + torch.arange(32)).view(n, 1, 32, 1)
    columns = (torch.randint(0, 9, (n, 1)) + torch.arange(32)).view(n, 1, 1, 32)
    y = padded[torch.arange(n).view(n, 1, 1, 1), torch.arange(3).view(1, 3, 1, 1), rows, columns]
    flip = torch.rand(n) < 0.5
    y[flip] = y[flip].flip(3)
    return normalised(y)


def normalised(images):
    return (images.float() / 255 - 0.48) / 0.26


def cifar10(directory, names):
    """Images (N,3,32,32) of bytes and labels (N) of the files of the binary version."""
    records = numpy.concatenate([numpy.fromfile(directory / f"{name}.bin", numpy.uint8) for name in names]).reshape(-1, 3073)
    return torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()), torch.from_numpy(records[:, 0].astype(numpy.int64))


def accuracy(net, images, labels, layout):
    """Percent."""
    net.eval()
    correct = 0
    with torch.no_grad():
        for i in range(0, len(images), 250):
            x = normalised(images[i:i + 250]).contiguous(memory_format=layout)
            correct += (net(x).argmax(1) == labels[i:i + 250]).sum().item()
    net.train()
    return 100 * correct / len(images)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--teacher", type=int, nargs=2, metavar=("DEPTH", "BITS"))
    parser.add_argument("--data", type=pathlib.Path, help="folder of CIFAR-10's binary version")
    parser.add_argument("--train-images", type=int, default=0, help="the first so many of --data; 0 for all")
    parser.add_argument("--epochs", type=int, default=2, help="with --data")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, help="where the network of --data goes")
    parser.add_argument("--teacher-file", type=pathlib.Path, help="an earlier --out; --teacher says what it is")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    net = ResNet(options.depth, options.bits).to(memory_format=layout)
    teacher = ResNet(*options.teacher).to(memory_format=layout).eval() if options.teacher else None
    if options.teacher_file:
        teacher.load_state_dict(torch.load(options.teacher_file))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    if options.data:
        images, labels = cifar10(options.data, [f"data_batch_{i}" for i in range(1, 6)])
        images, labels = images[:options.train_images or None], labels[:options.train_images or None]
    else:
        images = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(0, 10, (options.images,))

    def epoch(count):
        order = torch.randperm(count)
        for i in range(0, count - options.batch_size + 1, options.batch_size):
            batch = order[i:i + options.batch_size]
            sgd.zero_grad()
            x = augmented(images[batch]).contiguous(memory_format=layout)
            logits = net(x)
            loss = functional.cross_entropy(logits, labels[batch])
            if teacher is not None:
                with torch.no_grad():
                    soft = functional.softmax(teacher(x), 1)
                loss = loss / 2 + functional.kl_div(functional.log_softmax(logits, 1), soft, reduction="batchmean") / 2
            loss.backward()
            sgd.step()

    if options.data:
        test_images, test_labels = cifar10(options.data, ["test_batch"])
        for _ in range(options.epochs):
            epoch(len(images))
            percent = accuracy(net, test_images, test_labels, layout)
        if options.out:
            torch.save(net.state_dict(), options.out)
        print(json.dumps({"test_accuracy": percent, "threads": torch.get_num_threads(), "torch": torch.__version__}))
        return

    epoch(3 * options.batch_size)
    begin = time.perf_counter()
    epoch(options.images)
    rate = options.images // options.batch_size * options.batch_size / (time.perf_counter() - begin)
    print(json.dumps({"images_per_second": rate, "threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
