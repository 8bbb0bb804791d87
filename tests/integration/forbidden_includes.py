"""Fails if a source file includes what its folder must not know.

Each folder may include the folders below it and the third-party headers named for it; the table is the architecture.
"""
import pathlib
import re
import sys

# Folder (longest prefix wins): project folders it may include, third-party prefixes it must not include.
TORCH = ("torch/", "ATen/", "c10/", "caffe2/")
GRPC = ("grpc", "google/protobuf/", "bitrung/v1/")
SQL = ("sqlite3",)
ASIO = ("boost/asio", "boost/beast")
YAML = ("yaml-cpp/",)
CLI = ("CLI/",)
RULES = {
    "db/base": (("db/base",), TORCH + GRPC + SQL + ASIO + YAML + CLI),
    "db": (("db",), TORCH + GRPC + ASIO + YAML + CLI),
    "server/core": (("db/base", "db/rows.h", "db/words.h", "server/core"),
                    TORCH + GRPC + SQL + ASIO + YAML + CLI + ("spdlog/", "chrono_clock", "thread", "mutex")),
    "server/engine": (("db", "server/core", "server/engine"), TORCH + GRPC + SQL + YAML + CLI),
    "server/auth": (("db/base", "db/access_store.h", "db/words.h", "server/auth"), TORCH + SQL + YAML + CLI),
    "server/rpc": (("db", "server/core", "server/engine", "server/auth", "server/rpc"), TORCH + SQL + YAML + CLI),
    "server": (("db", "server"), TORCH + SQL + YAML),
    "worker/train/data/locate": (("worker/train/data", "db/base/check.h"), TORCH + GRPC + SQL + ASIO + YAML + CLI),
    "worker/train": (("worker/train", "db/base/check.h"), GRPC + SQL + ASIO + YAML + ("absl/", "openssl/", "fmt/", "spdlog/")),
    "worker/agent": (("db/base", "db/artifacts.h", "db/words.h", "worker/agent", "worker/train/data/locate.h"),
                     TORCH + SQL + YAML),
    "client/experiment": (("db/base", "db/words.h", "client/experiment", "worker/train/nn/architecture.h",
                           "worker/train/numerics.h", "worker/train/quant/methods.h"), TORCH + SQL + ASIO + CLI),
    "client/interop": (("db/base", "client/interop", "worker/train/nn/architecture.h", "worker/train/safetensors.h"),
                       TORCH + GRPC + SQL + ASIO + YAML + CLI),
    "client/cli": (("db/base", "db/words.h", "client", "worker/train/data/locate.h", "worker/train/nn/architecture.h",
                    "worker/train/safetensors.h"), TORCH + SQL + YAML),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.MULTILINE)
PROJECT = ("db/", "server/", "worker/", "client/", "tests/")


def rule_for(path):
    best = max((prefix for prefix in RULES if path.startswith(prefix)), key=len, default=None)
    return RULES[best] if best else None


def violations(root):
    for folder in ("db", "server", "worker", "client"):
        for file in sorted((root / folder).rglob("*")):
            if file.suffix not in (".h", ".cc"):
                continue
            path = file.relative_to(root).as_posix()
            rule = rule_for(path)
            if rule is None:
                yield f"{path}: its folder has no rule in {pathlib.Path(__file__).name}"
                continue
            allowed, forbidden = rule
            for quote, include in INCLUDE.findall(file.read_text(encoding="utf-8")):
                if quote == '"' and include.startswith(PROJECT):
                    if not any(include == ok or include.startswith(ok.rstrip("/") + "/") for ok in allowed):
                        yield f"{path}: must not include {include}"
                elif include.startswith(forbidden):
                    yield f"{path}: must not include {include}"


def main():
    root = pathlib.Path(sys.argv[1])
    found = list(violations(root))
    for line in found:
        print(line)
    files = sum(1 for folder in ("db", "server", "worker", "client") for f in (root / folder).rglob("*.cc"))
    if files < 20:
        found.append("too few files")
        print(f"only {files} source files found below {root}: wrong directory?")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
