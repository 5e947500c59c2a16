"""Checksums of files: whole, or fast ones of files of weights. No torch here: a model's folder is named by them."""

import hashlib
from pathlib import Path

SAMPLES, SAMPLE_BYTES = 16, 4096  # what a fast checksum reads of a file of weights, beside its header
SMALL_FILES = (  # of a model's folder, hashed whole
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(path: Path) -> str:
    """Twelve letters for what a file, or every file of a folder, holds."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()[:12]


def fast_sha256(path: Path) -> str:
    """Of a safetensors file's size, its header and a few blocks at even distances: 64 KiB of however many GiB."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        header = min(int.from_bytes(file.read(8), "little"), size)  # a damaged file names any length
        digest.update(file.read(header))
        for index in range(SAMPLES):
            file.seek(8 + header + max(size - 8 - header, 0) * index // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Of all files of a model's folder that decide what it computes, whatever the folder is called."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(f"{path.name} {fast_sha256(path)}\n".encode())
    for path in (folder / name for name in SMALL_FILES):
        if path.is_file():
            digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()
