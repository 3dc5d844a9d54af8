"""Messages: the wire format, codecs, lossy compression, cryptography, and ownership of tensors."""

KINDS = {
    "compressor": {
        "top-k": "covey.messages.compression.sparse:TopK",
        "random": "covey.messages.compression.sparse:Random",
        "ternary": "covey.messages.compression.sparse:Ternary",
        "fp16": "covey.messages.compression.quantized:FP16",
        "bf16": "covey.messages.compression.quantized:BF16",
        "int8": "covey.messages.compression.quantized:Int8",
        "qsgd": "covey.messages.compression.quantized:QSGD",
        "sign": "covey.messages.compression.quantized:Sign",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
