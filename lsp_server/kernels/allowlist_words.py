"""What a kernel's module may name: tables, one for each place.

Rule: what is not here is refused. Data only.
"""

from __future__ import annotations

from lsp_server.kernels.task import Language


def _under(prefix: str, words: str) -> frozenset[str]:
    return frozenset(f"{prefix}.{word}" for word in words.split())


DTYPES = """
float16 bfloat16 float32 float64 half float double int8 int16 int32 int64 uint8 uint16 uint32 uint64
short int long bool float8_e4m3fn float8_e5m2
"""
TL_DTYPES = """
float16 bfloat16 float32 float64 int1 int8 int16 int32 int64 uint8 uint16 uint32 uint64 float8e4nv
float8e5 float8e4b15 void pointer_type dtype
"""

_COMMON = frozenset(("torch", "math", "__future__", "typing"))
IMPORTS = {
    Language.TRITON: _COMMON | {"triton", "triton.language", "triton.language.extra"},
    Language.C: _COMMON | {"ctypes"},
    Language.CUDA: _COMMON | {"ctypes"},
    Language.NUMBA: _COMMON | {"numba", "numpy"},
}

BUILTINS = frozenset(
    """
    min max len int float bool range tuple list abs isinstance enumerate zip sum round reversed all
    any str divmod True False None ValueError TypeError RuntimeError NotImplementedError
    AssertionError IndexError
    """.split()
)
# Builtins that may be given a tensor: they look at what it is, not at its values.
LOOKS_ONLY = frozenset(("isinstance", "len", "tuple", "list", "enumerate", "zip"))

# Functions that host code may call, by what they give.
GIVES_TENSOR = _under(
    "torch",
    """
    empty empty_like empty_strided zeros zeros_like full full_like as_strided broadcast_tensors
    broadcast_to reshape permute transpose unsqueeze squeeze flatten from_numpy t
    """,
)
CALLABLE = (
    GIVES_TENSOR
    | _under(
        "torch",
        """
        device Size is_tensor promote_types result_type broadcast_shapes finfo iinfo numel
        is_floating_point cuda.device get_default_dtype
        """,
    )
    | _under("triton", "cdiv next_power_of_2 Config language.constexpr language.cdiv")
    | _under("triton.language", "next_power_of_2 pointer_type")
    | _under("numpy", "empty empty_like zeros zeros_like full full_like dtype float32 int64 int32")
    | _under(
        "ctypes",
        """
        c_void_p c_float c_double c_int c_uint c_long c_ulong c_longlong c_ulonglong c_size_t
        c_ssize_t c_int8 c_int16 c_int32 c_int64 c_uint8 c_uint16 c_uint32 c_uint64
        c_bool c_char_p c_short
        c_ushort POINTER cast
        """,
    )
)
VALUES = (
    CALLABLE
    | _under("torch", DTYPES)
    | _under(
        "torch", "Tensor dtype strided contiguous_format preserve_format channels_last inf nan pi"
    )
    | _under("triton.language", TL_DTYPES)
    | _under("numpy", DTYPES + " ndarray inf nan pi bool_")
    | _under("numba", DTYPES + " boolean intp uintp void types")
    | _under("ctypes", "CDLL")
)
CONTEXTS = frozenset(("torch.cuda.device", "torch.no_grad", "torch.inference_mode"))

# What may be asked of a tensor, a shape or a number.
METHODS_TENSOR = frozenset(
    """
    contiguous view reshape transpose t permute flatten expand expand_as view_as unsqueeze squeeze
    detach to half float double bfloat16 numpy new_empty new_zeros new_full new_empty_strided
    as_strided narrow select swapaxes movedim clone zero_ fill_ unflatten broadcast_to type_as cpu
    cuda requires_grad_ T mT data_ptr ravel ctypes
    """.split()
)
METHODS_PLAIN = frozenset(
    """
    shape dtype device ndim is_cuda layout itemsize nbytes strides size stride numel dim
    element_size is_contiguous is_floating_point storage_offset get_device append extend index
    type bits max min
    eps tiny value is_complex requires_grad count prod
    """.split()
)

# Within Triton kernels.
TL = frozenset(
    f"triton.language.{word}"
    for word in (
        TL_DTYPES
        + """
    tensor constexpr program_id num_programs arange cat full zeros zeros_like cast broadcast
    broadcast_to expand_dims interleave join permute ravel reshape split trans view dot dot_scaled
    load store make_block_ptr advance make_tensor_descriptor load_tensor_descriptor
    store_tensor_descriptor flip where swizzle2d abs cdiv ceil clamp cos div_rn erf exp exp2 fdiv
    floor fma log log2 maximum minimum rsqrt sigmoid sin softmax sqrt sqrt_rn umulhi argmax argmin
    max min reduce sum xor_sum associative_scan cumprod cumsum histogram sort topk gather atomic_add
    atomic_and atomic_cas atomic_max atomic_min atomic_or atomic_xchg atomic_xor rand randn randint
    randint4x philox range static_range assume debug_barrier max_constancy max_contiguous
    multiple_of static_assert PropagateNan PropagateNan.ALL PropagateNan.NONE tanh target_info
    math.abs math.ceil math.cos math.div_rn math.erf math.exp math.exp2 math.fdiv math.floor
    math.fma math.log math.log2 math.max math.min
    math.rsqrt math.sin math.sqrt math.sqrt_rn math.umulhi
    math.tanh math.pow
    """
    ).split()
) | {"triton.cdiv", "triton.next_power_of_2"}
TL_LIBDEVICE = "triton.language.extra"  # and below it: functions of libdevice
TL_METHODS = frozenset(
    """
    to T trans dtype element_ty shape type cast sum max min argmax argmin reshape view permute
    expand_dims broadcast_to split numel load store abs exp log sqrt rsqrt sigmoid cdiv value
    primitive_bitwidth is_floating is_ptr scalar
    """.split()
)
KERNEL_BUILTINS = frozenset(("range", "min", "max", "abs", "float", "int", "len", "bool", "tuple"))
TUNING = {
    "triton.jit": frozenset(("do_not_specialize", "noinline", "do_not_specialize_on_alignment")),
    "triton.autotune": frozenset(
        ("configs", "key", "restore_value", "reset_to_zero", "warmup", "rep")
    ),
    "triton.heuristics": frozenset(("values",)),
}

# Within Numba kernels.
NUMBA = (
    _under("numba", DTYPES + " boolean intp prange literal_unroll")
    | _under("numpy", DTYPES + " inf nan pi bool_ e intp")
    | _under(
        "numpy",
        """
        abs absolute add arange arccos arcsin arctan arctan2 argmax argmin ceil copysign cos cosh
        divide empty empty_like exp exp2 expm1 fabs floor full full_like fmax fmin isfinite isinf
        isnan log log10 log1p log2 max maximum mean min minimum mod multiply negative ones ones_like
        power prod reciprocal sign sin sinh sqrt square subtract sum tan tanh trunc where zeros
        zeros_like any all
        """,
    )
)
NUMBA_METHODS = frozenset(
    """
    shape size ndim dtype T reshape ravel flat copy fill sum max min mean astype strides any all
    """.split()
)
NUMBA_OPTIONS = frozenset(
    "parallel fastmath cache nogil inline error_model nopython locals target identity".split()
)
NUMBA_DECORATORS = frozenset(("numba.njit", "numba.jit", "numba.vectorize", "numba.guvectorize"))

# What statements are called in a sentence.
NODES = {
    "Try": "try/except (it would hide a kernel that fails)",
    "TryStar": "try/except (it would hide a kernel that fails)",
    "ClassDef": "a class",
    "AsyncFunctionDef": "async code",
    "Await": "async code",
    "AsyncFor": "async code",
    "AsyncWith": "async code",
    "Yield": "yield",
    "YieldFrom": "yield",
    "Global": "global",
    "Nonlocal": "nonlocal",
    "Delete": "del",
    "Import": "an import here",
    "ImportFrom": "an import here",
    "With": "this context",
    "Match": "match",
    "While": "while",
    "For": "for",
    "If": "if",
    "Lambda": "lambda",
    "FunctionDef": "a function here",
    "NamedExpr": ":=",
    "SetComp": "a set",
    "DictComp": "a dictionary comprehension",
    "Set": "a set",
    "Raise": "raise",
}
