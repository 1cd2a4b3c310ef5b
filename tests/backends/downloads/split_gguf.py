"""The starter model in several parts, as large models are published."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter

from backends import starter

PER_PART = 30  # tensors; the starter has 74


def write(folder: Path) -> dict[str, bytes]:
    """Write the parts into `folder`; return them by name."""
    source = GGUFReader(str(starter.path()))
    writer = GGUFWriter(folder / "parts-Q8_0.gguf", "qwen2", split_max_tensors=PER_PART)
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(field.name, field.contents())
        else:
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.gguf"))}
