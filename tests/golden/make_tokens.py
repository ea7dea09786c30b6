"""Writes tokens.json: the ids that llama.cpp gives for texts.py, by each tokenizer of the tests.

    python -m tests.golden.make_tokens

Needs llama-cpp-python (0.3.36 wrote what is committed) beside membound's own requirements; run it again after
changing texts.py or vocabularies.py. Of real files only the vocabulary is loaded; each small vocabulary goes
through a GGUF file of its own.
"""

import ctypes
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp

from membound.models.packaged import PACKAGED
from membound.models.pull import models_folder
from tests.golden.texts import TEXTS
from tests.golden.vocabularies import byte_level, sentencepiece

REAL = ("smollm2", "gemma3", "qwen0.5b")
PRE = ("gpt-2", "default", "smollm", "qwen2", "llama-bpe", "dbrx", "tekken", "deepseek-coder", "deepseek-v3")


SILENT = llama_cpp.llama_log_callback(lambda level, text, user_data: None)  # it logs every key of every file


class Peer:
    """llama.cpp's tokenizer of one file."""

    def __init__(self, path: Path) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def tokens(self, text: str, *, around: bool, special: bool) -> list[int]:
        data = text.encode()
        out = (llama_cpp.llama_token * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), out, len(out), around, special)
        assert count >= 0
        return list(out[:count])

    def piece(self, token: int) -> bytes:
        out = ctypes.create_string_buffer(1024)
        count = llama_cpp.llama_token_to_piece(self._vocab, token, out, len(out), 0, False)
        assert count >= 0
        return out.raw[:count]

    def facts(self) -> dict[str, Any]:
        size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        pieces = hashlib.sha256()
        for token in range(size):
            piece = self.piece(token)
            pieces.update(len(piece).to_bytes(4, "little") + piece)
        return {
            "plain": [self.tokens(text, around=False, special=False) for text in TEXTS],
            "special": [self.tokens(text, around=True, special=True) for text in TEXTS],
            "end_ids": [i for i in range(size) if llama_cpp.llama_vocab_is_eog(self._vocab, i)],
            "bos_id": llama_cpp.llama_vocab_bos(self._vocab),
            "eos_id": llama_cpp.llama_vocab_eos(self._vocab),
            "pieces_sha256": pieces.hexdigest(),
        }


def write_vocabulary(metadata: Mapping[str, Any], path: Path) -> None:
    """A GGUF file of nothing but this vocabulary."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    llama_cpp.llama_log_set(SILENT, ctypes.c_void_p())
    golden = {name: Peer(models_folder() / PACKAGED[name].file).facts() for name in REAL}
    small = {f"pre {name}": byte_level(name) for name in PRE}
    small |= {f"spm {'' if space else 'no '}space": sentencepiece(space) for space in (True, False)}
    with tempfile.TemporaryDirectory() as folder:
        for name, metadata in small.items():
            write_vocabulary(metadata, Path(folder) / "v.gguf")
            golden[name] = Peer(Path(folder) / "v.gguf").facts()
    rows = json.dumps(golden, separators=(",", ":")).replace("]],", "]],\n").replace("},", "},\n")
    (Path(__file__).parent / "tokens.json").write_text(rows + "\n")


if __name__ == "__main__":
    main()
